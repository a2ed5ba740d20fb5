"""Rewrites of functions: one pass, one file, one public function, one fixture."""
