"""Random programs, mutants, and the table of specs."""
