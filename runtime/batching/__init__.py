"""Which parameters run as one call, and where their states lie."""
