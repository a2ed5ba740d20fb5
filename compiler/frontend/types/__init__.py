"""Types of values, and of equations that need each other: what is computed from what, and of which shape."""
