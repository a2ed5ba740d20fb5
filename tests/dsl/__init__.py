"""The language's text: trees, places, diagnostics, formatting."""
