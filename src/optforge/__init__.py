"""Optforge: optimizers as short specs, compiled to PyTorch."""
