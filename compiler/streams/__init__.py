"""``prev`` becomes state: typed IR in, pure functions over states out, with the names that checkpoints hold."""
