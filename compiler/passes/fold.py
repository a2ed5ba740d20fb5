"""Constant folding: arithmetic on literals, and operations that change nothing.

A literal zero times a scalar or the weight is zero, which is how a spec leaves a term out. That counts hypers as
finite, which nobody multiplies by 0 otherwise, and the weight, since one that is not finite is lost already; a scalar
that is infinite or NaN for ordinary hypers, as `1 / (t - 1)` is at first, stays. Decimal literals are combined in
decimal, so that ``1 - 0.95`` is ``0.05``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from optforge.compiler.analysis.scalar_facts import INPUTS, Facts
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.intervals import Interval
from optforge.compiler.ir.types import SCALAR, Kind, Phase, Type

FINITE = Interval(-(2.0**100), 2.0**100, has_nan=False)  # products of a few are finite as well
FINITE_INPUTS: Mapping[ir.InputSource, Interval] = {
    **INPUTS,
    ir.InputSource.HYPER: FINITE,
    ir.InputSource.ARGUMENT: FINITE,
}
CONSTANT = Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)
TRUTH = Type(Kind.BOOLEAN, SCALAR, Phase.CONSTANT)
SCALAR_REDUCTIONS = {"sum", "mean", "amax", "amin"}


def fold_constants(function: ir.Function) -> ir.Function:
    """The function with every expression simplified, equations untouched otherwise."""
    facts = FiniteFacts({equation.name: equation.value for equation in function.equations}, function.given)
    return ir.map_expressions(lambda expr: ir.transform(lambda node: simplify(node, facts), expr), function)


class FiniteFacts(Facts):
    """What is known of scalars where hypers and arguments are finite, of ordinary size."""

    inputs = FINITE_INPUTS


def simplify(node: ir.Expr, facts: Facts | None = None) -> ir.Expr:
    """The node in simpler form; its children are simple already, and its scalars are what the facts say."""
    match node:
        case ir.Select() if is_literal_truth(node.condition, True):
            return put_in_place_of(node, node.then)
        case ir.Select() if is_literal_truth(node.condition, False):
            return put_in_place_of(node, node.otherwise)
        case ir.Select() if node.then == node.otherwise:
            return put_in_place_of(node, node.then)
        case ir.Apply() if node.type.phase is Phase.CONSTANT and all_literals(node):
            return fold_operator(node)
        case ir.Apply(operator="eq" | "ne"):
            return without_known_side(node)
        case ir.Apply(operator="and" | "or"):
            return without_known(node)
        case ir.Apply(operator="not", arguments=(inner,)):
            return opposite(node, inner)
        case ir.Apply(operator="neg", arguments=(ir.Apply(operator="neg", arguments=(inner,)),)):
            return inner
        case ir.Apply(operator=name, arguments=(inner, *_)) if name in SCALAR_REDUCTIONS and inner.type.shape == SCALAR:
            return inner
        case ir.Apply(operator="add" | "sub" | "mul" | "div" | "pow"):
            return without_neutral(node, facts or FiniteFacts({}))
        case ir.Apply(operator="fill", arguments=(inner,)):
            return inner if inner.type == node.type else node
        case _:
            return node


def all_literals(node: ir.Apply) -> bool:
    return all(isinstance(argument, ir.Literal) for argument in node.arguments)


def fold_operator(node: ir.Apply) -> ir.Expr:
    """The literal that the operator gives on literals; the node itself where there is none."""
    exact = decimal_value(node)
    value = evaluate_constant(node, {}) if exact is None else exact
    if isinstance(value, bool):
        return ir.Literal(value, str(value).lower(), type=node.type, span=node.span)
    if not isinstance(value, float | int) or value != value:
        return node
    return ir.Literal(float(value), spell(float(value)), type=node.type, span=node.span)


def decimal_value(node: ir.Apply) -> float | None:
    """Sum, difference or product of short decimal literals, exact in decimal."""
    spellings = [argument.spelling for argument in node.arguments if isinstance(argument, ir.Literal)]
    if node.operator not in ("add", "sub", "mul") or any(len(text) > 12 or "pi" in text for text in spellings):
        return None
    left, right = (Decimal(text) for text in spellings)
    if not (left.is_finite() and right.is_finite()):
        return None
    exact = {"add": left + right, "sub": left - right, "mul": left * right}[node.operator]
    return float(exact)


def spell(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def is_literal(expr: ir.Expr, value: float) -> bool:
    """Whether the expression is this number, possibly spread over a tensor."""
    if isinstance(expr, ir.Apply) and expr.operator == "fill":
        return is_literal(expr.arguments[0], value)
    return isinstance(expr, ir.Literal) and not isinstance(expr.value, bool) and expr.value == value


def is_finite(expr: ir.Expr, facts: Facts) -> bool:
    if expr.type.is_scalar_phase:
        return facts.interval(expr).is_finite
    return isinstance(expr, ir.Input) and expr.key == ir.WEIGHT


def without_neutral(node: ir.Apply, facts: Facts) -> ir.Expr:
    """``x + 0``, ``x * 1``, ``x / 1``, ``x ^ 1`` and ``0 * x`` in short."""
    left, right = node.arguments
    unchanged = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}[node.operator]
    if is_literal(right, unchanged) and is_like(left, node):
        return left
    if node.operator in ("add", "mul") and is_literal(left, unchanged) and is_like(right, node):
        return right
    if node.operator == "mul" and (
        (is_literal(left, 0) and is_finite(right, facts)) or (is_literal(right, 0) and is_finite(left, facts))
    ):
        zero = ir.Literal(0.0, "0", type=CONSTANT, span=node.span)
        return zero if node.type.is_scalar_phase else ir.Apply("fill", (zero,), type=node.type, span=node.span)
    return node


def without_known(node: ir.Apply) -> ir.Expr:
    left, right = node.arguments
    deciding = node.operator == "or"
    for known, other in ((left, right), (right, left)):
        if is_literal_truth(known, deciding):
            return put_in_place_of(node, known)
        if is_literal_truth(known, not deciding):
            return put_in_place_of(node, other)
    return node


def without_known_side(node: ir.Apply) -> ir.Expr:
    """``x == true`` as ``x``, ``x == false`` as ``not x``."""
    left, right = node.arguments
    for known, other in ((left, right), (right, left)):
        for truth in (True, False):
            if is_literal_truth(known, truth):
                is_same = truth is (node.operator == "eq")
                return put_in_place_of(node, other if is_same else opposite(negate(other), other))
    return node


def negate(expr: ir.Expr) -> ir.Apply:
    return ir.Apply("not", (expr,), type=expr.type, span=expr.span)


def opposite(node: ir.Apply, inner: ir.Expr) -> ir.Expr:
    """``not`` put into what it stands before, where that is as short."""
    match inner:
        case ir.Apply(operator="not", arguments=(same,)):
            return same
        case ir.Apply(operator="eq" | "ne"):
            return replace(inner, operator="ne" if inner.operator == "eq" else "eq")
    is_false = is_literal_truth(inner, False)
    if not is_false and not is_literal_truth(inner, True):
        return node
    return put_in_place_of(node, ir.Literal(is_false, str(is_false).lower(), type=TRUTH, span=node.span))


def is_literal_truth(expr: ir.Expr, value: bool) -> bool:
    """Whether the expression is this truth value, possibly spread over a tensor."""
    if isinstance(expr, ir.Apply) and expr.operator == "fill":
        return is_literal_truth(expr.arguments[0], value)
    return isinstance(expr, ir.Literal) and expr.value is value


def is_like(value: ir.Expr, node: ir.Expr) -> bool:
    """Whether both are Python values, or tensors of one shape."""
    return value.type.shape == node.type.shape and value.type.is_scalar_phase == node.type.is_scalar_phase


def put_in_place_of(node: ir.Expr, value: ir.Expr) -> ir.Expr:
    """The value as what the node was: its readers count on a tensor where it was one."""
    if node.type.is_scalar_phase or is_like(value, node):
        return value
    if isinstance(value, ir.Apply) and value.operator == "fill":
        (value,) = value.arguments
    return ir.Apply("fill", (value,), type=node.type, span=value.span)
