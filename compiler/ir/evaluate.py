"""Values of constant expressions, with the meaning that scalars have everywhere: that of IEEE 754."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS


def evaluate_constant(expr: ir.Expr, hypers: Mapping[str, ir.Value]) -> ir.Value | None:
    """The value, or None where it depends on more than these ``hypers``."""
    match expr:
        case ir.Literal(value=value):
            return value
        case ir.Input(name=name, source=ir.InputSource.HYPER):
            return hypers.get(name)
        case ir.Select(condition=condition, then=then, otherwise=otherwise):
            choice = evaluate_constant(condition, hypers)
            return None if choice is None else evaluate_constant(then if choice else otherwise, hypers)
        case ir.Apply(operator=operator, arguments=arguments):
            scalar = OPERATORS[operator].scalar
            values = [evaluate_constant(argument, hypers) for argument in arguments]
            if scalar is None or any(value is None for value in values):
                return None
            try:
                return scalar(*values)  # type: ignore[no-any-return]
            except TypeError:  # values of the wrong kind, which the type checker reports
                return None
        case _:
            return None


def arithmetic_problem(node: ir.Apply) -> str | None:
    """Why an operator gives no finite number for the finite literals that it is written with; None where it gives one.

    A literal from elsewhere, an argument of a function or of ``use``, may stand where another choice is taken.
    """
    value = evaluate_constant(node, {})
    values = [evaluate_constant(argument, {}) for argument in node.arguments]
    numbers = [each for each in values if isinstance(each, float)]
    if not isinstance(value, float) or math.isfinite(value) or not all(map(math.isfinite, numbers)):
        return None
    leaves = [leaf for leaf in ir.walk(node) if isinstance(leaf, ir.Literal) and isinstance(leaf.value, float)]
    if not all(is_within(leaf, node) and leaf.span.text == leaf.spelling for leaf in leaves):
        return None
    if node.operator in ("div", "mod", "pow") and numbers[1 if node.operator != "pow" else 0] == 0:
        return "divides by zero"
    return "is too large for a number" if math.isinf(value) and node.operator != "log" else "has no real value"


def is_within(part: ir.Expr, whole: ir.Expr) -> bool:
    """Whether the text of one expression is part of another's."""
    one, other = part.span, whole.span
    return one.source is other.source and other.start <= one.start and one.end <= other.end
