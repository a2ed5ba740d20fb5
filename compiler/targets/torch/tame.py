"""Which rules a kernel may compute in another form: those whose scalars are neither infinite nor NaN on the way.

Two forms that arithmetic shows to be equal are equal for finite numbers. Infinities and NaN do not cancel, a product
with 0 keeps them, and numbers too large or too small for a factor of their own may be fine in a product. So a rule goes
to a fused kernel only if all its scalars are finite whenever its hypers are tame: 0, or between 2^-100 and 2^100 in
size. The runtime looks at the hypers before each call (`_are_tame`) and runs the rule as it is written otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optforge.compiler.analysis.scalar_facts import INPUTS, Facts
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.intervals import Interval
from optforge.compiler.ir.types import Kind
from optforge.compiler.passes.careful import PathCondition
from optforge.compiler.passes.fold import is_literal

LARGEST = 2.0**100
SMALLEST = 1 / LARGEST
TAME: Mapping[ir.InputSource, Interval] = {**INPUTS, ir.InputSource.HYPER: Interval(-LARGEST, LARGEST, has_nan=False)}


class TameFacts(Facts):
    """What is known where every hyper is tame: one that is not 0 is not next to it either."""

    inputs = TAME

    def interval(self, expr: ir.Expr) -> Interval:
        found = super().interval(expr)
        if not (isinstance(expr, ir.Input) and expr.source is ir.InputSource.HYPER):
            return found
        low = max(found.low, SMALLEST) if found.low > 0 else found.low
        high = min(found.high, -SMALLEST) if found.high < 0 else found.high
        return replace(found, low=low, high=high)


def is_tame(function: ir.Function) -> bool:
    """Whether all scalars of the function are finite for tame hypers, and no tensor is multiplied by a literal 0."""
    equations = {equation.name: equation.value for equation in function.equations}
    everywhere = PathCondition(TameFacts(equations, function.given))
    places = [(e.value, everywhere if e.when is None else everywhere.within(e.when)) for e in function.equations]
    return all(is_tame_at(*each) for each in (*places, *((output.value, everywhere) for output in function.outputs)))


def is_tame_at(expr: ir.Expr, place: PathCondition) -> bool:
    match expr:
        case ir.Select(condition=condition) if condition.type.is_scalar_phase:
            branches = ((expr.then, place.within(condition)), (expr.otherwise, place.within(condition, False)))
            return is_tame_at(condition, place) and all(is_tame_at(*branch) for branch in branches)
        case ir.Literal(value=float(value)):
            return value == 0 or SMALLEST <= abs(value) <= LARGEST
        case ir.Apply(operator="mul" | "div") if not expr.type.is_scalar_phase and loses(expr):
            return False
        case ir.Apply() if expr.type.is_scalar_phase and expr.type.kind is Kind.NUMBER:
            if not place.facts.interval(expr).is_finite:
                return False
    return all(is_tame_at(child, place) for child in ir.children(expr))


def loses(product: ir.Apply) -> bool:
    """Whether arithmetic would leave nothing of a tensor."""
    return any(is_literal(argument, 0) for argument in product.arguments)
