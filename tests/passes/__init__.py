"""Each rewrite, before and after."""
