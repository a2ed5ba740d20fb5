"""Types: what kind of value an expression has, how it is shaped, and when it can change.

A shape is a pair from {1, rows, cols, rank} squared; the rank is a size that a rule declares, by a name of its own.
``None`` is the shape of what does not fit together: one mistake is said once, and whatever is made of it fits
everything. It never survives the type checker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias


class Dim(Enum):
    ONE = "1"
    ROWS = "rows"
    COLS = "cols"
    RANK = "rank"

    __hash__ = object.__hash__  # as fast as members are compared: tables of shapes and inputs are read all the time


Shape: TypeAlias = tuple[Dim, Dim]

SCALAR: Shape = (Dim.ONE, Dim.ONE)
FULL: Shape = (Dim.ROWS, Dim.COLS)
PER_ROW: Shape = (Dim.ROWS, Dim.ONE)
PER_COL: Shape = (Dim.ONE, Dim.COLS)
GRAMS: tuple[Shape, ...] = ((Dim.ROWS, Dim.ROWS), (Dim.COLS, Dim.COLS))
SQUARES: tuple[Shape, ...] = (*GRAMS, (Dim.RANK, Dim.RANK))
BESIDE: tuple[Shape, ...] = (FULL, FULL[::-1], PER_ROW, PER_ROW[::-1], PER_COL, PER_COL[::-1], SCALAR)
BASES: tuple[Shape, ...] = (*SQUARES, (Dim.ROWS, Dim.RANK), (Dim.COLS, Dim.RANK))  # with no more columns than rows


class Kind(Enum):
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TEXT = "a string"
    AXIS = "row or col"
    TRIPLES = "triples of coefficients"


class Phase(IntEnum):
    """When a value can change: never while a group's hypers stay, with the step count, or with the data."""

    CONSTANT = 0
    STEP = 1
    STREAM = 2


@dataclass(frozen=True, slots=True)
class Type:
    """Kind, shape and phase of a value."""

    kind: Kind
    shape: Shape | None
    phase: Phase

    @property
    def is_scalar_phase(self) -> bool:
        """A plain Python value in generated code, not a tensor."""
        return self.phase is not Phase.STREAM


UNTYPED = Type(Kind.NUMBER, None, Phase.STREAM)
CONSTANT = Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)
TENSOR = Type(Kind.NUMBER, FULL, Phase.STREAM)


class Universe(Enum):
    """Which parameters a rule must work for: matrices only, or tensors of any shape."""

    MATRIX = "matrix"
    TENSOR = "tensor"


def describe(kind: Kind, shape: Shape | None, universe: Universe = Universe.MATRIX, rank: str = "rank") -> str:
    """A type in words, for messages; ``rank`` is what the rule calls that dimension."""
    if kind is not Kind.NUMBER or shape is None:
        return kind.value
    if shape == SCALAR:
        return "a scalar"
    if universe is Universe.TENSOR:
        return "a tensor"
    first, second = (rank if dim is Dim.RANK else dim.value for dim in shape)
    return f"({first}, {second})"


def broadcast_dims(left: Dim, right: Dim) -> Dim | None:
    """The common dimension, or None where there is none."""
    if left is Dim.ONE:
        return right
    if right is Dim.ONE or left is right:
        return left
    return None


def broadcast(left: Shape | None, right: Shape | None) -> Shape | None:
    """The shape of an elementwise result; raises ValueError where the two do not fit."""
    if left is None or right is None:
        return None
    rows, cols = broadcast_dims(left[0], right[0]), broadcast_dims(left[1], right[1])
    if rows is None or cols is None:
        raise ValueError
    return rows, cols
