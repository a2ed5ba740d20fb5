"""What every target is run on: one weight and a sequence of gradients, for a few shapes, in two precisions.

The numbers are the same in float32 and float64: all are numbers that float32 holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[int, int]

SHAPES: tuple[Shape, ...] = ((32, 32), (48, 16), (16, 48))  # square, tall, wide
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Trial:
    """A weight and its gradients, step by step."""

    dtype: str
    weight: Array
    grads: tuple[Array, ...]

    @property
    def shape(self) -> Shape:
        rows, cols = self.weight.shape
        return rows, cols

    @property
    def title(self) -> str:
        rows, cols = self.shape
        kind = "square" if rows == cols else "tall" if rows > cols else "wide"
        return f"{kind} {rows}x{cols}, {self.dtype}"


def make_trials(
    shapes: Sequence[Shape] = SHAPES, steps: int = 10, seed: int = 1, dtypes: Sequence[str] = DTYPES
) -> Iterator[Trial]:
    """Gradients keep a common part and vary in size, so that averages over them matter; weights are as in training."""
    for shape in shapes:
        random = np.random.default_rng((seed, *shape))
        weight = round_to_float32(random.standard_normal(shape) / np.sqrt(shape[1]))
        common = random.standard_normal(shape)
        sizes = 0.1 * 2.0 ** random.uniform(-1, 1, steps)
        grads = tuple(round_to_float32(size * (common + random.standard_normal(shape))) for size in sizes)
        for dtype in dtypes:
            yield Trial(dtype, weight, grads)


def round_to_float32(values: Array) -> Array:
    """The nearest numbers that float32 holds."""
    return values.astype(np.float32).astype(np.float64)
