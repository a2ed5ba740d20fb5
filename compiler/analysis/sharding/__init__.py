"""Where the values of a function are computed when a dimension of its matrices is cut into shards, one on each rank."""
