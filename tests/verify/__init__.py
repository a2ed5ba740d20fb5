"""Claims, comparisons, and the search for differences."""
