"""Arithmetic that kernels call, of numbers and of matrices."""
