"""UBA (arXiv 2505.24452): the factor on the base lr at step t, single phase after a linear warm-up."""

from __future__ import annotations

import math


def uba_factor(t: float, total: float, warmup: float = 0, phi: float = 1.0) -> float:
    """2 (1 + cos theta) / (2 phi + (2 - phi) (1 + cos theta)), theta = pi (t - warmup) / (total - warmup)."""
    if t < warmup:
        return t / warmup
    if t > total:
        return 0.0
    rise = 1 + math.cos(math.pi * (t - warmup) / (total - warmup))
    return 2 * rise / (2 * phi + (2 - phi) * rise)
