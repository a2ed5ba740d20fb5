"""How one call of a kernel is run."""
