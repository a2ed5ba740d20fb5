"""Parameters that run as one call."""
