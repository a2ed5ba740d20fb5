"""Which rule each parameter follows, and how it is read."""
