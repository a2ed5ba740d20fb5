"""Rewrites that speak of torch: operators that it has in one, norms that are known, results written in place."""
