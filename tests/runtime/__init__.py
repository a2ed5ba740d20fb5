"""What generated classes share: the contract of each, states, checkpoints, frameworks."""
