"""Specs of published methods, with trajectories of hand-written references."""
