"""Random well-typed programs, run in every way there is: the ways must agree."""
