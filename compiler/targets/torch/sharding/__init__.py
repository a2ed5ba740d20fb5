"""Steps on shards as Python: generators of the ranks, and what is called for the owners of whole matrices."""
