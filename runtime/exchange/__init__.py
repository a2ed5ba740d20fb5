"""What ranks send each other when the matrices that they step are sharded."""
