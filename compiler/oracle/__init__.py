"""What a program means, in NumPy float64: what every target is compared with."""
