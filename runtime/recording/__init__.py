"""Kernels as recorded graphs: how one is recorded, and cut into what runs apart."""
