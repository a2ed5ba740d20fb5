"""Targets: what the typed IR can become."""
