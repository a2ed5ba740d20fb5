"""Pieces of random programs: a piece of surface tree with what the generator knows about it.

Besides its type a :class:`Term` has a bound on its size, so that programs stay near 1, where agreement to
ten digits is a fair demand, and its ground: the shape that can be told without looking at ``prev``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optforge.compiler.ir.types import SCALAR, Dim, Phase, Shape, broadcast
from optforge.dsl import ast

LIMIT = 20.0  # on the size of every named value
DATA_BOUND = 3.0  # on gradients
WEIGHT_BOUND = 8.0


@dataclass(frozen=True, slots=True)
class Term:
    """``ground`` is what shape inference knows of the shape before it has looked at any state."""

    node: ast.Expression
    shape: Shape
    bound: float
    phase: Phase = Phase.STREAM
    ground: Shape = SCALAR

    @property
    def is_stream(self) -> bool:
        return self.phase is Phase.STREAM


@dataclass(slots=True)
class Variable:
    """A name that equations may read; ``initial`` is what every ``prev`` of it starts from (None: not decided).

    Initial values may read what is pure: hypers, and equations without states.
    """

    name: str
    shape: Shape
    phase: Phase = Phase.STREAM
    bound: float = LIMIT
    is_boolean: bool = False
    is_foreign: bool = False
    is_pure: bool = False
    reads: int = 0
    initial: list[ast.Expression] | None = None

    def term(self) -> Term:
        self.reads += 1
        ground = SCALAR if self.is_foreign else self.shape
        return Term(ast.Name(self.name), self.shape, self.bound, self.phase, ground)


# Nodes


def literal(spelling: str) -> ast.Expression:
    return ast.Unary("-", ast.Number(spelling[1:])) if spelling.startswith("-") else ast.Number(spelling)


def constant(spelling: str) -> Term:
    return Term(literal(spelling), SCALAR, abs(float(spelling)), Phase.CONSTANT)


def name(text: str) -> ast.Name:
    return ast.Name(text)


def call_node(function: str, *arguments: ast.Expression, **keywords: ast.Expression) -> ast.Call:
    pairs = tuple((ast.Identifier(key), value) for key, value in keywords.items())
    return ast.Call(ast.Identifier(function), arguments, pairs)


def piped(call: ast.Call) -> ast.Pipe:
    """The call with its first argument brought by ``|>``."""
    first, *rest = call.arguments
    short = replace(call, arguments=tuple(rest))
    return ast.Pipe(first, short, bare=not (rest or call.keywords))


# Terms of terms


def join_shapes(shapes: Sequence[Shape]) -> Shape:
    result: Shape = SCALAR
    for shape in shapes:
        whole = broadcast(result, shape)
        assert whole is not None
        result = whole
    return result


def elementwise(node: ast.Expression, bound: float, *parts: Term) -> Term:
    """The term of an elementwise operator on the parts."""
    return Term(
        node,
        join_shapes([part.shape for part in parts]),
        bound,
        max(part.phase for part in parts),
        join_shapes([part.ground for part in parts]),
    )


def binary(operator: str, left: Term, right: Term, bound: float) -> Term:
    return elementwise(ast.Binary(operator, left.node, right.node), bound, left, right)


def plus(left: Term, right: Term) -> Term:
    return binary("+", left, right, left.bound + right.bound)


def minus(left: Term, right: Term) -> Term:
    return binary("-", left, right, left.bound + right.bound)


def times(left: Term, right: Term) -> Term:
    return binary("*", left, right, left.bound * right.bound)


def apply_to(function: str, argument: Term, bound: float) -> Term:
    return elementwise(call_node(function, argument.node), bound, argument)


def swapped(term: Term) -> Term:
    node = ast.Unary("'", term.node)
    return Term(node, term.shape[::-1], term.bound, term.phase, term.ground[::-1])


def reduce_shape(shape: Shape, per: str | None) -> Shape:
    rows, cols = shape
    return {"row": (rows, Dim.ONE), "col": (Dim.ONE, cols), None: SCALAR}[per]


def fits_in(shape: Shape, target: Shape) -> bool:
    """Whether the shape spreads over the target."""
    return all(own in (Dim.ONE, wanted) for own, wanted in zip(shape, target, strict=True))


def squared_mean(term: Term) -> Term:
    node = call_node("mean", ast.Binary("^", term.node, ast.Number("2")))
    return Term(node, SCALAR, term.bound**2, term.phase)
