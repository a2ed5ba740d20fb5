"""Norms reused: the length of an orthogonalized matrix with scaled rows follows from the lengths of the rows.

Where a rule already takes the mean square, the sum of squares or the norm of each row of ``o = orthogonalize(..)``,
``norm(o / s)`` with one ``s`` per row needs no second pass over the matrix: it is ``norm(r / s)`` for the norms ``r``
of the rows. Columns alike.

Rounding: each form sums the same squares in another order, so that the two differ by at most (rows + cols) units in the
last place of the norm. A square below the smallest number is lost: rows shorter than 1e-19 (in float32) count as zero.
That is why only orthogonalized matrices qualify, whose lengths are near 1 by construction: without an eps, beside which
a small matrix stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import FULL, SCALAR, Kind, Phase, Type

AXES = ("row", "col")
PLACE_OF_EPS = [each.name for each in OPERATORS["orthogonalize"].parameters].index("eps")
NUMBER = Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)


def reuse_norms(function: ir.Function) -> ir.Function:
    """The function with each norm of a scaled orthogonalized matrix computed from what is known of its rows."""
    values = {equation.name: equation.value for equation in function.equations}
    lengths = dict(known_lengths(function, values))
    if not lengths:
        return function

    def reuse(node: ir.Expr) -> ir.Expr:
        return length_of(node, values, lengths) or node

    return ir.map_expressions(lambda expr: ir.transform(reuse, expr), function)


def known_lengths(
    function: ir.Function, values: Mapping[EquationName, ir.Expr]
) -> Iterator[tuple[tuple[ir.Expr, str], ir.Expr]]:
    """For an orthogonalized matrix and an axis: its norms along it, from a reduction that the function has anyway."""
    for equation in function.equations:
        for node in ir.walk(equation.value):
            if not (isinstance(node, ir.Apply) and node.operator in ("mean", "sum", "norm")):
                continue
            reduced, axis = node.arguments
            if not isinstance(axis, ir.Literal) or axis.value not in AXES:
                continue
            matrix = reduced if node.operator == "norm" else squared(reduced)
            if matrix is not None and is_orthogonalized(matrix, values):
                yield (matrix, str(axis.value)), norms(node, str(axis.value))


def squared(expr: ir.Expr) -> ir.Expr | None:
    return expr.arguments[0] if isinstance(expr, ir.Apply) and expr.operator == "square" else None


def is_orthogonalized(expr: ir.Expr, values: Mapping[EquationName, ir.Expr]) -> bool:
    while isinstance(expr, ir.Ref):
        expr = values[expr.name]
    if not isinstance(expr, ir.Apply) or expr.operator != "orthogonalize":
        return False
    eps = expr.arguments[PLACE_OF_EPS]
    return isinstance(eps, ir.Literal) and eps.value == 0


def norms(reduction: ir.Apply, axis: str) -> ir.Expr:
    """The norms along an axis from a mean square, a sum of squares, or themselves."""
    if reduction.operator == "norm":
        return reduction
    summed: ir.Expr = reduction
    if reduction.operator == "mean":
        count = ir.Input(
            "cols" if axis == "row" else "rows", ir.InputSource.DIMENSION, type=NUMBER, span=reduction.span
        )
        summed = replace(reduction, operator="mul", arguments=(reduction, count))
    return replace(reduction, operator="sqrt", arguments=(summed,))


def length_of(
    node: ir.Expr, values: Mapping[EquationName, ir.Expr], lengths: Mapping[tuple[ir.Expr, str], ir.Expr]
) -> ir.Expr | None:
    """`norm(o * s)` or `norm(o / s)` over the whole matrix by the norms of its rows or columns."""
    if not (isinstance(node, ir.Apply) and node.operator == "norm"):
        return None
    scaled, axis = node.arguments
    if not isinstance(axis, ir.Literal) or axis.value in AXES or scaled.type.shape != FULL:
        return None
    inner = values[scaled.name] if isinstance(scaled, ir.Ref) else scaled
    if not (isinstance(inner, ir.Apply) and inner.operator in ("mul", "div")):
        return None
    sides = [inner.arguments, inner.arguments[::-1]] if inner.operator == "mul" else [inner.arguments]
    for matrix, scale in sides:
        for along in AXES:
            length = lengths.get((matrix, along))
            if length is not None and scale.type.shape == length.type.shape:
                product = replace(inner, arguments=(length, scale), type=length.type)
                return replace(node, arguments=(product, axis))
    return None
