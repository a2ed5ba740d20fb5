"""Which part of a DTensor parameter a rank has, and how rules, states and steps see it."""
