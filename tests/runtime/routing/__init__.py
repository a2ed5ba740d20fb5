"""Which parameter follows which rule, read as which matrices."""
