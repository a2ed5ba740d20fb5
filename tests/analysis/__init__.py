"""What is found in a spec without running it."""
