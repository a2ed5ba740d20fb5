"""Gradients with an entry or two that are infinite, NaN, or so large that squares overflow: in one program of four.

What a program makes of them all ways must make of them, with the exceptions that docs/limits.md tells: torch's `lerp`
stands only where an average that is infinite loses the weight, and there it may be NaN, and so what follows from it.

Where rounding decides, as in the cosine of 1e200, nothing need agree. That is found by twins: oracles whose gradients
differ from those of the others by a little more than rounding. What twins cannot see is how libraries multiply
matrices: with or without rounding products before they are added, so that one overflows where the other does not, and
with 0 or 1e-17 in an eigenvector, which 1e200 makes large. So matrices that are multiplied get no huge entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Across

Array = NDArray[np.float64]
SHARE = 0.25
NOT_FINITE = (math.inf, -math.inf, math.nan)
HUGE = (1e200, -1e200, 4e307)  # sums of a few overflow, but no difference of two, which torch's `lerp` may not survive
LITTLE = 1e-14


class Specials:
    """Which gradients of the program of a seed are special, drawn apart from everything else; 0 has none."""

    def __init__(self, seed: int, steps: int, may_be_huge: bool = True) -> None:
        self.values = (*NOT_FINITE, *HUGE) if may_be_huge else NOT_FINITE
        self.random = np.random.default_rng((seed, 1))
        is_chosen = seed > 0 and self.random.random() < SHARE
        self.step = int(self.random.integers(1, steps + 1)) if is_chosen else 0

    def __bool__(self) -> bool:
        return self.step > 0

    def spoil(self, grads: Sequence[Array]) -> None:
        """Give one of the gradients special entries."""
        if grads:
            entries = grads[int(self.random.integers(len(grads)))].reshape(-1)
            for _ in range(1 + self.random.integers(2)):
                entries[self.random.integers(entries.size)] = self.random.choice(self.values)

    def shaken(self, grad: Array) -> Array:
        """The gradient with every entry changed by a little more than rounding."""
        with np.errstate(over="ignore"):
            return grad * (1 + LITTLE * self.random.uniform(-1, 1, grad.shape))


def is_finite(values: Any) -> bool:
    return bool(np.isfinite(values).all())


def has_average(functions: Iterable[ir.Function]) -> bool:
    """Whether an average is torch's, which subtracts."""
    return "lerp" in applied_operators(functions)


def multiplies_matrices(functions: Iterable[ir.Function]) -> bool:
    rows = map(OPERATORS.__getitem__, applied_operators(functions))
    return any(row.across in (Across.PRODUCT, Across.WHOLE) for row in rows)


def applied_operators(functions: Iterable[ir.Function]) -> set[str]:
    nodes = (node for function in functions for node in ir.nodes(function))
    return {node.operator for node in nodes if isinstance(node, ir.Apply)}


def determined(wanted: Mapping[str, Any], is_excused: bool) -> list[str]:
    """The outputs of a function that must be as they were; ``is_excused`` where averages have become torch's.

    States may differ that lose the weight of the next step.
    """
    if not is_excused or all(map(is_finite, wanted.values())):
        return list(wanted)
    return [name for name in wanted if name in ("weight", "loss") and is_finite(wanted[name])]
