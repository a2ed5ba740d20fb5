"""Tests of the targets that print mathematics."""
