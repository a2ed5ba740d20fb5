"""Places: where the units of a parameter lie, and what is known of a parameter until it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..contract.interface import DIMENSIONS, OWN_DIMENSIONS, Rule, State
from ..contract.precision import _precision_state

LAYOUTS = ("elementwise", "tensor", "matrix")  # each can run what the ones before it can


def _wider(*layouts: str) -> str:
    return max(layouts, key=LAYOUTS.index)


@dataclass(frozen=True)
class View:
    """How a parameter of two or more dimensions is read as matrices; each field is a key of parameter groups.

    The first `batch` dimensions count matrices (experts that are one parameter). Of those that are left, the first are
    the rows and all others the columns, or with `transposed` the second are the rows. `split` cuts the rows of each
    matrix into that many equal parts, or parts of these lengths, which are matrices of their own.
    """

    transposed: bool = False
    split: int | tuple[int, ...] | None = None
    batch: int = 0


VIEW_KEYS = tuple(each.name for each in fields(View))


def _view_in(group: Mapping[str, Any]) -> View:
    """The view that a parameter group asks for; ValueError for one that there cannot be."""
    transposed, split, batch = (group[key] for key in VIEW_KEYS)
    if not isinstance(transposed, bool):
        raise ValueError(f"invalid transposed={transposed!r}: a bool is expected")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
        raise ValueError(f"invalid batch={batch!r}: how many dimensions count matrices is expected, 0 for none")
    parts = split if isinstance(split, (tuple, list)) else [1 if split is None else split]
    if not all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in parts):
        raise ValueError(f"invalid split={split!r}: a number of parts is expected, or the rows of each part")
    return View(transposed, tuple(split) if isinstance(split, list) else split, batch)


@dataclass(frozen=True)
class Place:
    """Where `count` units of one shape lie in a parameter (all of it, unless `split` cuts unequal parts)."""

    unit: tuple[int, ...]  # (rows, cols), or (numel,) in the elementwise layout
    count: int = 1
    transposed: bool = False
    leading: tuple[int, ...] = ()  # the dimensions before those of the matrices
    before: tuple[tuple[int, ...], ...] = ()  # the units before the first, in each matrix, and the rank of each
    start: int = 0  # the row of each matrix in which the first begins
    whole: bool = True
    sizes: tuple[int, ...] = ()  # of the whole units of which these are parts
    turned: bool = False  # the units are the transposes of what lies in the matrices, as an oriented rule sees them

    rank: int = 0  # the size of the rule's own dimension

    @property
    def parts(self) -> int:
        """How many units lie in each matrix."""
        return self.count // max(math.prod(self.leading), 1)

    @property
    def is_viewable(self) -> bool:
        """Whether a batch of units can be seen in the shape of the parameter without copying it."""
        return self.whole and not (self.turned and self.parts > 1)

    def window(self, x: Tensor, state: State | None = None) -> Tensor:
        """The part of x that belongs to this place, as a view; x is like the parameter, or a state of `state`."""
        if state is not None and not state.full:
            if self.whole:
                return x
            before = sum(math.prod(self._sizes(state, unit)) for unit in self.before)
            size = self.count * math.prod(self._sizes(state, self.unit))
            return x.narrow(0, math.prod(self.leading) * before, size)
        axis = len(self.leading)
        x = x.transpose(axis, axis + 1) if self.transposed else x
        rows = self.unit[-1 if self.turned else 0]
        x = x if self.whole else x.narrow(axis, self.start, self.parts * rows)
        if not self.turned:
            return x
        apart = x.view(*x.shape[:axis], self.parts, rows, *x.shape[axis + 1 :])
        return apart.movedim(axis + 1, -1)

    def batch(self, count: int, state: State | None = None) -> tuple[int, ...]:
        """The shape in which a kernel sees the weight or a state of `count` units: (count, rows, cols) or (count,).

        In the elementwise layout elements are counted.
        """
        sizes = self.unit if state is None or state.full else self._sizes(state, self.unit)
        return (count, *sizes) if len(self.unit) == 2 else (count,)

    def restored(self, block: Tensor, state: State, shape: torch.Size) -> Tensor:
        """A view of a state's block of a whole parameter, in the shape that the state has."""
        if not (state.full and (self.transposed or self.turned) and block.numel()):
            return block.view(shape)
        axis, stored = len(self.leading), list(shape)
        if self.transposed:
            stored[axis : axis + 2] = shape[axis + 1], shape[axis]
        if self.turned:
            block = block.view(*stored[:axis], *stored[axis + 1 :], stored[axis]).movedim(-1, axis)
        else:
            block = block.view(stored)
        return block.transpose(axis, axis + 1) if self.transposed else block

    def _sizes(self, state: State, unit: tuple[int, ...]) -> tuple[int, ...]:
        rows, cols, rank = (*unit, self.rank)[:3]
        sizes = {"rows": rows, "cols": cols, "rank": rank}
        first, second = (size if isinstance(size, int) else sizes[size] for size in state.shape)
        if (
            self.sizes and state.shape[0] == state.shape[1] in DIMENSIONS
        ):  # a part of a square is one along its first side
            second = self.sizes[state.shape[1] == "cols"]
        return first, second


def _row_counts(rows: int, split: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The rows of each unit; ValueError if `split` does not divide them."""
    if split is None:
        return (rows,)
    parts = split if isinstance(split, tuple) else (rows // split,) * min(split, rows)
    if sum(parts) != rows:
        raise ValueError(f"split={split} does not divide {rows} rows")
    return parts


@lru_cache(maxsize=4096)
def _places(layout: str, shape: tuple[int, ...], view: View, turning: str | bool | None = None) -> tuple[Place, ...]:
    """The places of the units of a parameter: one for each run of equal shapes.

    `turning` says which units are seen transposed: those that are not "wide" or "tall", all, or none.
    """
    if layout == "elementwise":
        return (Place((math.prod(shape),)),)
    if layout == "tensor" or len(shape) < 2:
        return (Place((math.prod(shape), 1)),)
    leading, sizes = shape[: view.batch], shape[view.batch :]
    if len(sizes) < 2:
        raise ValueError(f"batch={view.batch} leaves no matrix of the shape {shape}")
    matrices = math.prod(leading)
    rows, cols = sizes[view.transposed], sizes[not view.transposed] * math.prod(sizes[2:])
    runs = [(length, len(list(run))) for length, run in groupby(_row_counts(rows, view.split))]
    places: list[Place] = []
    before: tuple[tuple[int, ...], ...] = ()
    start = 0
    for length, count in runs:
        turned = turning is True or {"wide": length > cols, "tall": length < cols}.get(str(turning), False)
        unit = (cols, length) if turned else (length, cols)
        is_whole = len(runs) == 1
        places.append(Place(unit, matrices * count, view.transposed, leading, before, start, is_whole, turned=turned))
        before += (unit,) * count
        start += length * count
    return tuple(places)


@dataclass(frozen=True)
class Slot:
    """What is known of a parameter until its shape, dtype or device changes."""

    role: str
    rule: Rule
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    view: View = View()
    sizing: tuple[tuple[str, Any], ...] = ()  # the hypers from which the rule's own dimension follows

    def places(self, layout: str) -> tuple[Place, ...]:
        return self._ranked(_places(layout, self.shape, self.view, self.rule.orientation))

    def _ranked(self, places: tuple[Place, ...]) -> tuple[Place, ...]:
        """The places with the sizes of the rule's own dimension."""
        rank, hypers = self.rule.rank, dict(self.sizing)
        if rank is None or self.is_empty or len(places[0].unit) == 1:
            return places
        ranks = [rank.size(place.sizes or place.unit, hypers, place.turned) for place in places]
        known = dict(zip([place.unit for place in places], ranks, strict=True))
        return tuple(
            replace(place, rank=size, before=tuple((*unit, known[unit]) for unit in place.before))
            for place, size in zip(places, ranks, strict=True)
        )

    @property
    def reads_own_sizes(self) -> bool:
        """Whether any kernel of the rule asks for the outputs or inputs of the parameter."""
        return any(name in kernel.scalars for kernel in self.rule.kernels for name in OWN_DIMENSIONS)

    @property
    def whole(self) -> Slot:
        """The slot of all of the parameter."""
        return self

    @property
    def owned(self) -> frozenset[str]:
        """The states that one rank alone has, where the parameter lies on several."""
        return frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether the parameter has no elements, and so never steps."""
        return not math.prod(self.whole.shape)

    def fits(self, p: Tensor) -> bool:
        return self.dtype is p.dtype and self.shape == p.shape and self.device == p.device

    def state_shape(self, state: State) -> tuple[int, ...]:
        """The shape of a state: the parameter's, (a, b), (count, a, b), or flat for unequal parts.

        One value for each row is as of a parameter that is not split, so that it can be cut where the rows are.
        """
        if state.is_per_row and self._is_in_order():
            return replace(self, view=replace(self.view, split=None)).shape_by_parts(state)
        return self.shape_by_parts(state)

    def may_hold(self, state: State, x: Tensor) -> bool:
        """Whether x has the shape of the state, wherever its owner is."""
        return tuple(x.shape) == self.state_shape(state)

    def _is_in_order(self) -> bool:
        """Whether the matrices of a split parameter follow each other as their rows do."""
        if self.rule.orientation and self.view.split is not None:
            return False  # what is seen as a row may be a column
        return len(self.places(self.rule.step.layout)) == 1 or math.prod(self.shape[: self.view.batch]) == 1

    def declared(self, name: str) -> State | None:
        """The state of this name: the rule's, or of a precision."""
        return next((each for each in self.rule.states if each.name == name), None) or _precision_state(name)

    def shape_by_parts(self, state: State) -> tuple[int, ...]:
        """The shape of a state of which each part of a split parameter has its own."""
        if state.full:
            return tuple(self.shape)
        places = self.places(self.rule.step.layout)
        sizes = [place.batch(place.count, state) for place in places]
        if len(sizes) > 1:
            return (sum(map(math.prod, sizes)),)
        return sizes[0] if sizes[0][0] > 1 else sizes[0][1:]
