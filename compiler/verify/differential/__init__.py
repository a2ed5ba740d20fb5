"""Anybody's optimizer beside a spec: random scenarios, run on both, until a step differs (`optforge fuzz`)."""
