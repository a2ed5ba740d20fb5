"""The rules of optimizers: each for itself, and those of wrapped optimizers put together with their wrappers."""
