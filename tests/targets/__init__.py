"""The text of generated modules."""
