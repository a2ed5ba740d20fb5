"""The first state or equation in which two targets differ, of those that both have under the same name.

What differs by rounding counts as equal: differences are relative to the value, those of the weight to its step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optforge.compiler.verify.comparison.measures import relate
from optforge.compiler.verify.comparison.streams import WEIGHT, Stream, Values
from optforge.compiler.verify.comparison.trials import Array

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Divergence:
    """Where two targets part, and how the value of the second compares with that of the first."""

    step: int
    stream: Stream
    ratio: float
    cosine: float
    difference: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


def first_divergence(first: Iterable[Values], other: Iterable[Values], weight: Array) -> Divergence | None:
    """The earliest step, and in it the earliest stream in the order of the first; ``weight`` is before all steps."""
    before = weight
    for step, (ours, theirs) in enumerate(zip(first, other, strict=True), 1):
        for stream, value in ours.items():
            if stream not in theirs:
                continue
            origin = before if stream == WEIGHT else np.zeros_like(value)
            found = relation(theirs[stream], value, origin)
            if not found[-1] <= TOLERANCE:
                return Divergence(step, stream, *found, (value.shape, theirs[stream].shape))
        before = ours[WEIGHT]
    return None


def relation(values: Array, first: Array, origin: Array) -> tuple[float, float, float]:
    """Ratio, cosine and difference from the origin; vectors may stand or lie, arrays of different sizes have none."""
    if values.size != first.size:
        return float("nan"), float("nan"), float("nan")
    return relate(values.reshape(first.shape) - origin, first - origin)
