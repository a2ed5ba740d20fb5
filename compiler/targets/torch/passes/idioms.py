"""Operators that torch has in one: averages as ``lerp``, powers of two as ``square``, halves as ``sqrt``."""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.passes.fold import is_literal


def recognize_idioms(function: ir.Function) -> ir.Function:
    return ir.map_expressions(lambda expr: ir.transform(recognized, expr), function)


def recognized(node: ir.Expr) -> ir.Expr:
    if not isinstance(node, ir.Apply) or node.type.is_scalar_phase:
        return node
    match node:
        case ir.Apply(operator="pow", arguments=(base, exponent)):
            if is_literal(exponent, 2) and not base.type.is_scalar_phase:
                return replace(node, operator="square", arguments=(base,))
            if is_literal(exponent, 0.5) and not base.type.is_scalar_phase:
                return replace(node, operator="sqrt", arguments=(base,))
        case ir.Apply(operator="mul", arguments=(left, right)) if left == right:
            return replace(node, operator="square", arguments=(left,))
        case ir.Apply(operator="add", arguments=(left, right)):
            return average(node, left, right) or average(node, right, left) or node
    return node


def average(node: ir.Apply, left: ir.Expr, right: ir.Expr) -> ir.Expr | None:
    """``a * x + (1 - a) * y`` as ``lerp(x, y, 1 - a)``, starting from a state where there is one."""
    for decay, start in scaled(left):
        for share, end in scaled(right):
            if not complementary(decay, share) or start.type != node.type or end.type != node.type:
                continue
            if is_state(end) and not is_state(start):
                start, end, share = end, start, decay
            return replace(node, operator="lerp", arguments=(start, end, share))
    return None


def scaled(expr: ir.Expr) -> list[tuple[ir.Expr, ir.Expr]]:
    """The ways to read an expression as (Python scalar) * (tensor)."""
    if not (isinstance(expr, ir.Apply) and expr.operator == "mul"):
        return []
    left, right = expr.arguments
    pairs = [(left, right), (right, left)]
    return [(a, x) for a, x in pairs if a.type.is_scalar_phase and not x.type.is_scalar_phase]


def complementary(decay: ir.Expr, share: ir.Expr) -> bool:
    """Whether ``share`` is ``1 - decay``."""
    if isinstance(share, ir.Apply) and share.operator == "sub":
        return is_literal(share.arguments[0], 1) and share.arguments[1] == decay
    if isinstance(decay, ir.Literal) and isinstance(share, ir.Literal):
        return decay.value == 1 - float(share.value) or share.value == 1 - float(decay.value)  # type: ignore[arg-type]
    return False


def is_state(expr: ir.Expr) -> bool:
    return isinstance(expr, ir.Input) and expr.source is ir.InputSource.STATE
