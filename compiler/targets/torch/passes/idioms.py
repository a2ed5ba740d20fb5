"""Operators that torch has in one: averages as ``lerp``, powers of two as ``square``, halves as ``sqrt``.

torch's ``lerp(x, y, w)`` subtracts x and y. What an average makes infinite, because it is or because the difference
is too large, may be NaN there. So it stands only where either way loses the weight: where the average goes into the
weight by operators that make nothing finite of it. Every other average is added up as it is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.passes.fold import is_literal

# Operators of whose result something is infinite or NaN if something is of any argument, or of the first.
KEEPING = {
    "add", "sub", "mul", "neg", "abs", "square", "fill", "transpose", "matmul", "dot", "lerp", "accumulate",
}  # fmt: skip
KEEPING_THE_FIRST = {"div", "sum", "mean", "norm", "sqrt", "log", "orthogonalize"}
NOTHING: frozenset[ir.Key | EquationName] = frozenset()


def recognize_idioms(function: ir.Function) -> ir.Function:
    simple = ir.map_expressions(lambda expr: ir.transform(recognize, expr), function)
    lost = values_that_lose(simple)
    return replace(
        simple,
        equations=tuple(replace(each, value=set_averages(each.value, each.name in lost)) for each in simple.equations),
        outputs=tuple(replace(each, value=set_averages(each.value, loses(each, lost))) for each in simple.outputs),
    )


def recognize(node: ir.Expr) -> ir.Expr:
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
    return node


# Which values lose the weight


def values_that_lose(function: ir.Function) -> frozenset[ir.Key | EquationName]:
    """Equations, by name, and inputs, by key, that are not infinite or NaN without the weight, or a loss, being so.

    A state is among them if the weight of the next step is.
    """
    reached = Reached({equation.name: equation.value for equation in function.equations})
    lost, before = NOTHING, None
    while lost != before:
        before = lost
        lost = lost.union(*(reached.from_(output.value) for output in function.outputs if loses(output, lost)))
    return lost


def loses(output: ir.Output, lost: frozenset[ir.Key | EquationName]) -> bool:
    return output.name in ("weight", "loss") or ir.stored(output.name) in lost


@dataclass
class Reached:
    """The values that make an expression infinite or NaN where they are so themselves."""

    values: dict[EquationName, ir.Expr]
    known: dict[EquationName, frozenset[ir.Key | EquationName]] = field(default_factory=dict)

    def from_(self, expr: ir.Expr) -> frozenset[ir.Key | EquationName]:
        match expr:
            case ir.Input():
                return frozenset({expr.key})
            case ir.Ref(name=name):
                if name not in self.known:
                    self.known[name] = self.from_(self.values[name]) | {name}
                return self.known[name]
            case ir.Select():
                return self.from_(expr.then) & self.from_(expr.otherwise)
            case ir.Apply():
                return NOTHING.union(*map(self.from_, kept_arguments(expr)))
            case _:
                return NOTHING


def kept_arguments(node: ir.Apply) -> tuple[ir.Expr, ...]:
    """The arguments that the operator makes nothing finite of."""
    if node.operator in KEEPING:
        return node.arguments
    return node.arguments[:1] if node.operator in KEEPING_THE_FIRST else ()


# Averages


def set_averages(expr: ir.Expr, is_lost: bool) -> ir.Expr:
    """The expression with its averages in the form that their place allows.

    Of a choice only one branch is computed, or counts in an element: in either an average is lost as the choice is.
    """
    if isinstance(expr, ir.Apply) and expr.operator == "add" and not expr.type.is_scalar_phase:
        left, right = expr.arguments
        expr = average(expr, left, right, is_lost) or average(expr, right, left, is_lost) or expr
    match expr:
        case ir.Apply():
            kept = kept_arguments(expr)
            arguments = tuple(
                set_averages(each, is_lost and index < len(kept)) for index, each in enumerate(expr.arguments)
            )
            return replace(expr, arguments=arguments)
        case ir.Select(condition=condition, then=then, otherwise=otherwise):
            return replace(
                expr,
                condition=set_averages(condition, False),
                then=set_averages(then, is_lost),
                otherwise=set_averages(otherwise, is_lost),
            )
        case _:
            return expr


def average(node: ir.Apply, left: ir.Expr, right: ir.Expr, is_lost: bool) -> ir.Apply | None:
    """``a * x + (1 - a) * y`` as ``lerp(x, y, 1 - a)`` if lost, else as ``accumulate(x, (1 - a) * y, a)`` of a state.

    Both start from a state where there is one.
    """
    for decay, start in scaled(left):
        for share, end in scaled(right):
            if not complementary(decay, share) or start.type != node.type or end.type != node.type:
                continue
            added = right
            if is_state(end) and not is_state(start):
                start, end, decay, share, added = end, start, share, decay, left
            if is_lost:
                return replace(node, operator="lerp", arguments=(start, end, share))
            if is_state(start):
                return replace(node, operator="accumulate", arguments=(start, added, decay))
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
