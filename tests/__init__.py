"""The tests, in folders like the rooms that they test; `cases` holds texts, `support` what several need."""
