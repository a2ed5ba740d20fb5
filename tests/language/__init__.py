"""The samples of the language page."""
