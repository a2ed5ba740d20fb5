"""How two steps compare: their size, their direction, and what is left between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optforge.compiler.verify.comparison.trials import Array


@dataclass(frozen=True)
class Measures:
    """``difference`` is |step - first's step| / |first's step|; NaN where a step of zero leaves nothing to compare."""

    rms: float  # root mean square of the step, per unit of lr
    ratio: float  # norm of the step over that of the first target's
    cosine: float  # of the angle between the two
    difference: float
    spectral: float  # largest singular value of the step, per unit of lr


def measure(step: Array, first: Array, lr: float | None) -> Measures:
    """A step beside the step of the first target; without an lr the sizes are those of the step itself."""
    per_lr = 1 / lr if lr else 1.0
    ratio, cosine, difference = relate(step, first)
    rms = float(np.sqrt(np.mean(step**2))) * per_lr
    return Measures(rms, ratio, cosine, difference, float(np.linalg.norm(step, 2)) * per_lr)


def relate(values: Array, first: Array) -> tuple[float, float, float]:
    """Ratio of norms, cosine, and relative difference of two arrays of equal size."""
    flat, other = values.ravel(), first.ravel()
    size, reference = float(np.linalg.norm(flat)), float(np.linalg.norm(other))
    if not reference:
        return float("nan"), float("nan"), float("nan") if size else 0.0
    cosine = float(flat @ other) / (size * reference) if size else float("nan")
    return size / reference, cosine, float(np.linalg.norm(flat - other)) / reference
