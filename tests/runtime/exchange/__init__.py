"""Products and orthogonal factors of matrices."""
