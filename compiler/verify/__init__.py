"""Everything that runs programs to find out whether they are right."""
