"""How a call is run: precisions, graphs, and what happens where it fails."""
