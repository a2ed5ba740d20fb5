"""What operators mean, in NumPy float64 on 2-D arrays."""
