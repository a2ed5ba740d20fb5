"""What the ways of verifying have in common: choices, values of hypers, gradients, and how failures are made small."""
