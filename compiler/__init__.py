"""Surface tree in, Python text out: resolve, check, rewrite, lower, render."""
