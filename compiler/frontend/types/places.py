"""Places: what stands for the number of a row or column, once shapes are known.

``index(row, of=s)`` depends on the shape of s alone. It becomes the number of the parameter's rows, or columns, laid
the way that is wanted, so that s itself need not be computed, and nothing that only numbers its rows waits for it.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import PER_COL, PER_ROW, SCALAR, Dim, Kind, Phase, Type

ZERO = ir.Literal(0.0, "0", type=Type(Kind.NUMBER, SCALAR, Phase.CONSTANT))


def place_indices(expr: ir.Expr) -> ir.Expr:
    """The typed expression with ``place`` for ``index``; one whose shape does not fit stays as it is."""
    return ir.transform(placed, expr)


def placed(node: ir.Expr) -> ir.Expr:
    if not (isinstance(node, ir.Apply) and node.operator == "index") or node.type.shape is None:
        return node
    (axis,) = (each for each in node.arguments[OPERATORS["index"].values :] if isinstance(each, ir.Literal))
    side = node.type.shape[0 if axis.value == "row" else 1]
    if side is Dim.ONE:
        return replace(node, operator="fill", arguments=(ZERO,))
    own, shape = ("row", PER_ROW) if side is Dim.ROWS else ("col", PER_COL)
    setting = replace(axis, value=own, spelling=own)
    place = ir.Apply("place", (setting,), type=replace(node.type, shape=shape), span=node.span)
    return place if own == axis.value else replace(node, operator="transpose", arguments=(place,))
