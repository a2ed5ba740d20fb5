"""Operators, and steps as stages with collectives between them."""
