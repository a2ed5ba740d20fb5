"""The PyTorch target: typed IR in, the text of a readable module out."""
