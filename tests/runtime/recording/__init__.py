"""How kernels become graphs, and what these are cut into."""
