"""Which sides of which equations nothing tells: typed functions in, pairs of an equation and an axis out.

An equation is open along an axis if it is a single value there only because the states that it is made of begin as
such. Numbers that do not come from the data say nothing about shapes, for they go with any, and so does a single
value by which it is multiplied; one that is added to it, or chosen instead of it, says that it is a single value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import (
    OPERATORS,
    basis_shape,
    elementwise_shape,
    reduce_shape,
    same_shape,
    square_shape,
)
from optforge.compiler.ir.types import SCALAR, Dim, Phase

Side = tuple[ir.StreamRef, int]  # an equation, and 0 for its rows or 1 for its columns
SCALING = ("mul", "div", "dot")
SQUARE = (square_shape, basis_shape)
KEEPING = (elementwise_shape, same_shape)


def open_sides(functions: Mapping[str, ir.Function]) -> set[Side]:
    """The largest set of sides that nothing but each other tells."""
    values = {
        ir.StreamRef(owner, equation.name): (equation.value, owner)
        for owner, function in functions.items()
        for equation in function.equations
    }
    found = {(name, axis) for name in values for axis in (0, 1)}
    while True:
        kept = {(name, axis) for name, axis in found if is_open(values[name][0], axis, values[name][1], found)}
        if kept == found:
            return found
        found = kept


def is_open(expr: ir.Expr, axis: int, owner: str, sides: set[Side]) -> bool:
    """Whether nothing but these sides tells that an expression has a single value along an axis."""
    if expr.type.shape is None or expr.type.shape[axis] is not Dim.ONE:
        return False
    leaf = leaf_of(expr, axis, owner)
    if leaf is not None:
        return leaf in sides
    parts = parts_along(expr, axis)
    told = [part for part, side in parts if not is_open(part, side, owner, sides)]
    if isinstance(expr, ir.Apply) and OPERATORS[expr.operator].shape in SQUARE:
        return len(told) < len(parts)
    is_scaled = isinstance(expr, ir.Apply) and expr.operator in SCALING
    says_nothing = [part.type.is_scalar_phase or (is_scaled and part.type.shape == SCALAR) for part in told]
    return len(told) < len(parts) and all(says_nothing)


def carriers(expr: ir.Expr, axis: int, owner: str) -> Iterator[Side]:
    """The sides of equations that give an expression its side along an axis."""
    leaf = leaf_of(expr, axis, owner)
    if leaf is not None:
        yield leaf
    for part, side in parts_along(expr, axis):
        yield from carriers(part, side, owner)


def leaf_of(expr: ir.Expr, axis: int, owner: str) -> Side | None:
    """The side of an equation that an expression is."""
    match expr:
        case ir.Ref(name=name):
            return ir.StreamRef(owner, name), axis
        case ir.Latest(stream=stream):
            return stream, axis
        case _:
            return None


def parts_along(expr: ir.Expr, axis: int) -> list[tuple[ir.Expr, int]]:
    """The parts of which an expression has its side along an axis, each with the axis that it is there."""
    match expr:
        case ir.Prev(stream=stream, initial=initial):
            return [(stream, axis), (initial, axis)]
        case ir.Select(then=then, otherwise=otherwise):
            return [(then, axis), (otherwise, axis)]
        case ir.Apply(operator="transpose", arguments=(inner,)):
            return [(inner, 1 - axis)]
        case ir.Apply(operator="matmul", arguments=factors):
            return [(factors[axis], axis)]
        case ir.Apply(operator=name, arguments=arguments):
            operator = OPERATORS[name]
            values = arguments[: operator.values]
            if operator.shape in SQUARE:
                return [(values[0], 0), (values[0], 1)]
            per = {getattr(setting, "value", None) for setting in arguments[operator.values :]}
            is_kept = operator.shape is reduce_shape and ("row", "col")[axis] in per
            return [(value, axis) for value in values] if is_kept or operator.shape in KEEPING else []
        case _:
            return []


def count_stretches(functions: Mapping[str, ir.Function]) -> int:
    """In how many places a value of the data takes the larger shape of what it is added to, or chosen instead of."""
    values = [equation.value for function in functions.values() for equation in function.equations]
    return sum(is_stretching(node) for value in values for node in ir.walk(value))


def is_stretching(node: ir.Expr) -> bool:
    if isinstance(node, ir.Apply):
        adds = OPERATORS[node.operator].shape is elementwise_shape and node.operator not in SCALING
        parts: tuple[ir.Expr, ...] = node.arguments if adds else ()
    else:
        parts = (node.then, node.otherwise) if isinstance(node, ir.Select) else ()
    return any(part.type.phase is Phase.STREAM and part.type.shape != node.type.shape for part in parts)
