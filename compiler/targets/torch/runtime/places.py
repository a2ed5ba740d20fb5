"""Places: where the units of a parameter lie, and what is known of a parameter until it changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from .interface import Memory, Rule

LAYOUTS = ("elementwise", "tensor", "matrix")  # each can run what the ones before it can


def _wider(*layouts: str) -> str:
    return max(layouts, key=LAYOUTS.index)


@dataclass(frozen=True)
class Place:
    """Where `count` consecutive units of one shape lie in a parameter (all of it, unless `split` cuts unequal parts).

    A parameter of more than two dimensions is read as (first, all others), `transposed` with its first two swapped.
    """

    unit: tuple[int, ...]  # (rows, cols), or (numel,) in the elementwise layout
    count: int = 1
    transposed: bool = False
    lengths_before: tuple[int, ...] = ()  # rows of the units before the first
    whole: bool = True

    def window(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """The part of x that belongs to this place, as a view; x is like the parameter, or a state of `memory`."""
        if memory is not None and not memory.full:
            if self.whole:
                return x
            start = sum(math.prod(self._sizes(memory, rows)) for rows in self.lengths_before)
            return x.narrow(0, start, self.count * math.prod(self._sizes(memory, self.unit[0])))
        x = x.transpose(0, 1) if self.transposed else x
        return x if self.whole else x.narrow(0, sum(self.lengths_before), self.count * self.unit[0])

    def batch(self, memory: Memory | None = None) -> tuple[int, ...]:
        """The shape in which a kernel sees the weight or a memory of several places: (-1, rows, cols) or (-1,)."""
        sizes = self.unit if memory is None or memory.full else self._sizes(memory, self.unit[0])
        return (-1, *sizes) if len(self.unit) == 2 else (-1,)

    def restored(self, block: Tensor, memory: Memory, shape: torch.Size) -> Tensor:
        """A view of a memory's block of a whole parameter in the shape of its state; `shape` is the parameter's."""
        if not memory.full:
            return block if self.count > 1 else block[0]
        if not self.transposed:
            return block.view(shape)
        return block.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)

    def _sizes(self, memory: Memory, rows: int) -> tuple[int, ...]:
        sizes = {"rows": rows, "cols": self.unit[-1]}
        return tuple(size if isinstance(size, int) else sizes[size] for size in memory.shape)


def _row_counts(rows: int, split: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The rows of each unit; ValueError if `split` does not divide them."""
    if split is None:
        return (rows,)
    parts = split if isinstance(split, tuple) else (rows // max(split, 1),) * split
    if sum(parts) != rows or any(part <= 0 for part in parts):
        raise ValueError(f"split={split} does not divide {rows} rows")
    return parts


@lru_cache(maxsize=4096)
def _places(
    layout: str, shape: tuple[int, ...], transposed: bool, split: int | tuple[int, ...] | None
) -> tuple[Place, ...]:
    """The places of the units of a parameter: one for each run of equal shapes."""
    if layout == "elementwise":
        return (Place((math.prod(shape),)),)
    if layout == "tensor" or len(shape) < 2:
        return (Place((math.prod(shape), 1)),)
    rows, cols = shape[transposed], math.prod(shape) // max(shape[transposed], 1)
    runs = [(length, len(list(run))) for length, run in groupby(_row_counts(rows, split))]
    places: list[Place] = []
    before: tuple[int, ...] = ()
    for length, count in runs:
        places.append(Place((length, cols), count, transposed, before, whole=len(runs) == 1))
        before += (length,) * count
    return tuple(places)


@dataclass(frozen=True)
class Slot:
    """What is known of a parameter until its shape, dtype or device changes."""

    rule: Rule
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    transposed: bool
    split: int | tuple[int, ...] | None

    def places(self, layout: str) -> tuple[Place, ...]:
        return _places(layout, self.shape, self.transposed, self.split)

    def fits(self, p: Tensor) -> bool:
        return self.dtype is p.dtype and self.shape == p.shape and self.device == p.device

    def state_shape(self, memory: Memory) -> tuple[int, ...]:
        """The shape of a memory in the state: the parameter's, (a, b), (count, a, b), or flat for unequal parts."""
        if memory.full:
            return tuple(self.shape)
        places = self.places(self.rule.step.layout)
        sizes = [(place.count, *place.batch(memory)[1:]) for place in places]
        if len(sizes) > 1:
            return (sum(map(math.prod, sizes)),)
        return sizes[0] if sizes[0][0] > 1 else sizes[0][1:]
