"""A step or event as a whole: all its buckets, the sums that they share, and the other ranks that take part."""
