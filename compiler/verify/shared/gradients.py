"""Gradient streams that optimizers meet, and those they should survive: a shape in, one gradient for each step out.

Plain streams are of ordinary size and full rank often enough; hostile ones are tiny, huge, zero, sparse, of rank one,
repeated, alternating, and so on. What a stream is called is shown with a counterexample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Random: TypeAlias = np.random.Generator
Shape: TypeAlias = tuple[int, int]
Stream: TypeAlias = Callable[[Random, Shape, int], list[Array]]


def normal(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [random.standard_normal(shape) for _ in range(steps)]


def tiny(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [1e-30 * grad for grad in normal(random, shape, steps)]


def huge(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [1e30 * grad for grad in normal(random, shape, steps)]


def uneven(random: Random, shape: Shape, steps: int) -> list[Array]:
    """Entries of very different sizes."""
    return [10 ** random.uniform(-6, 6, shape) * grad for grad in normal(random, shape, steps)]


def zero(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [0 * grad for grad in normal(random, shape, steps)]


def fading(random: Random, shape: Shape, steps: int) -> list[Array]:
    """One gradient, and zeros after it."""
    first, *rest = normal(random, shape, steps)
    return [first, *(0 * grad for grad in rest)]


def sparse_rows(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [grad * (random.random((shape[0], 1)) < 0.4) for grad in normal(random, shape, steps)]


def rank_one(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [random.standard_normal((shape[0], 1)) * random.standard_normal((1, shape[1])) for _ in range(steps)]


def repeated(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [random.standard_normal(shape)] * steps


def alternating(random: Random, shape: Shape, steps: int) -> list[Array]:
    first = random.standard_normal(shape)
    return [first * (-1) ** step for step in range(steps)]


def one_hot(random: Random, shape: Shape, steps: int) -> list[Array]:
    """A different single entry at each step."""
    grads = zero(random, shape, steps)
    for grad in grads:
        grad[int(random.integers(shape[0])), int(random.integers(shape[1]))] = 1.0
    return grads


def constant(random: Random, shape: Shape, steps: int) -> list[Array]:
    """The same number everywhere, always."""
    return [grad + 1.0 for grad in zero(random, shape, steps)]


def growing(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [4.0**step * grad for step, grad in enumerate(normal(random, shape, steps))]


def shrinking(random: Random, shape: Shape, steps: int) -> list[Array]:
    return [0.1**step * grad for step, grad in enumerate(normal(random, shape, steps))]


# Where scale does not matter up to eps, these show it: neither tiny nor huge.
PLAIN: Mapping[str, Stream] = {
    "normal": normal,
    "sparse rows": sparse_rows,
    "rank one": rank_one,
    "repeated": repeated,
    "alternating": alternating,
    "one-hot": one_hot,
    "constant": constant,
    "growing": growing,
}
STREAMS: Mapping[str, Stream] = {
    **PLAIN,
    "tiny": tiny,
    "huge": huge,
    "uneven": uneven,
    "zero": zero,
    "fading": fading,
    "shrinking": shrinking,
}
