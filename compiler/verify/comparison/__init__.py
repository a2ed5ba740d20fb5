"""Optimizers side by side on the same weights and gradients: what `optforge compare` measures.

`targets` says what can be compared, `trials` on what, `runs` and `streams` compute the steps, `measures` and
`divergence` compare them, `report` shows the result.
"""
