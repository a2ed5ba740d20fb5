"""Places: what stands for the number of a row or column, once shapes are known.

``index(row, of=s)`` depends on the shape of s alone. It becomes the number of the parameter's rows, or columns, laid
the way that is wanted, so that s itself need not be computed, and nothing that only numbers its rows waits for it.
In the same way ``normal(of=s)`` becomes a draw from the noise of the parameter's elements. What has fewer elements
takes the first ones: nobody needs to know where in the whole a shard, a bucket or a part of a split parameter lies.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.meanings.draws import key_of
from optforge.compiler.ir.operators import OPERATORS, STREAMS
from optforge.compiler.ir.types import FULL, PER_COL, PER_ROW, SCALAR, TENSOR, Dim, Kind, Phase, Type

ZERO = ir.Literal(0.0, "0", type=Type(Kind.NUMBER, SCALAR, Phase.CONSTANT))


SIDE = {FULL: "", PER_ROW: "row", PER_COL: "col", SCALAR: "all"}  # along what only the first element counts
NOISE = ir.Input("noise", ir.InputSource.STREAM, type=TENSOR)


def place_indices(expr: ir.Expr) -> ir.Expr:
    """The typed expression with what stands for ``index`` and streams; one whose shape does not fit stays as it is."""
    return ir.transform(placed, expr)


def placed(node: ir.Expr) -> ir.Expr:
    if isinstance(node, ir.Apply) and node.operator in STREAMS and node.type.shape is not None:
        return drawn(node)
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


def drawn(node: ir.Apply) -> ir.Expr:
    """The draw of a stream; that of a shape which lies across is the transpose of one that does not."""
    _, stream = node.arguments
    shape = node.type.shape
    assert shape is not None
    if shape not in SIDE and shape[::-1] in SIDE:
        turned = drawn(replace(node, type=replace(node.type, shape=shape[::-1])))
        return ir.Apply("transpose", (turned,), type=node.type, span=node.span)
    if shape not in SIDE or not isinstance(stream, ir.Literal) or not isinstance(stream.value, float):
        return node
    key = key_of(int(stream.value), shape)
    number = replace(stream, value=float(key), spelling=str(key))
    draw = ir.Apply(f"drawn_{node.operator}", (NOISE, number), type=TENSOR, span=node.span)
    if shape == FULL:
        return draw
    axis = ir.Literal(SIDE[shape], SIDE[shape], type=Type(Kind.AXIS, SCALAR, Phase.CONSTANT))
    return ir.Apply("corner", (draw, axis), type=node.type, span=node.span)
