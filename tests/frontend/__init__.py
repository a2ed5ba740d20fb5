"""From trees to typed programs: names, meanings, and what is said of mistakes."""
