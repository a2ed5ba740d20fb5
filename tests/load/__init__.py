"""Classes in memory, and what pickle makes of them."""
