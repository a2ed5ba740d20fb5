"""Surface tree in, typed IR out: definitions are found, names get their meaning, every value its type."""
