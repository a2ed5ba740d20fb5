"""Names and literals that mean the same everywhere: the given values, axes, and the forms of claims."""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import literal
from optforge.compiler.ir.types import Kind
from optforge.dsl import ast

# The special forms of a claim, each with the argument that it typically has.
CLAIM_FORMS = {
    "scale_free": "grad",
    "cost": "...",
    "state": "...",
    "communicates": "...",
    "orthogonal": "x",
    "equivariant": "rows",
}

NO_BASE = "only equations of an optimizer that `extends` another have it"  # what is wrong with a `super` elsewhere

UNIVERSAL: dict[str, ir.Expr] = {
    "grad": ir.Input("grad", ir.InputSource.STREAM),
    "weight": ir.Input("weight", ir.InputSource.STREAM),
    "t": ir.Input("t", ir.InputSource.STEP),
    "rows": ir.Input("rows", ir.InputSource.DIMENSION),
    "cols": ir.Input("cols", ir.InputSource.DIMENSION),
    "outputs": ir.Input("outputs", ir.InputSource.DIMENSION),
    "inputs": ir.Input("inputs", ir.InputSource.DIMENSION),
    "pi": ir.Literal(3.141592653589793, "pi"),
    "row": ir.Literal("row", "row"),
    "col": ir.Literal("col", "col"),
}
RESERVED = (*UNIVERSAL, "inf", "super", "prev", "next")


def universal(name: ast.Name) -> ir.Expr | None:
    found = UNIVERSAL.get(name.name)
    if isinstance(found, ir.Literal):
        kind = Kind.NUMBER if found.spelling == "pi" else Kind.AXIS
        return literal(found.value, found.spelling, kind, name.span)
    return found


def nested(node: ast.Call) -> ast.Call:
    """``f(a, f(b, c))`` for ``f(a, b, c)``."""
    first, *others = node.arguments or (None,)
    if first is None or len(others) < 2:
        return node
    inner = replace(node, arguments=tuple(others), span=others[0].span.to(others[-1].span))
    return replace(node, arguments=(first, nested(inner)))
