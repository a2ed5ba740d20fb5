"""Scalars as Python computes them: where its own operators could raise, or forget a NaN, the runtime's do the work.

In: a function after all passes. Out: the same with operators such as ``ieee_div`` for ``div``, except where what is
known of the arguments, from the conditions of hypers and from the choice that they stand in, makes Python's operator
mean what IEEE 754 says. Both sides of ``and`` and ``or`` count as computed, since a line may be too short for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from optforge.compiler.analysis.scalar_facts import OPPOSITE, Facts, facts_of
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import CAREFUL, OPERATORS


@dataclass(frozen=True)
class PathCondition:
    """Where an expression stands: the conditions under which it is computed, the latest one last."""

    outer: PathCondition | Facts
    condition: ir.Expr | None = None
    truth: bool = True

    @cached_property
    def facts(self) -> Facts:
        """Made where an operator asks for it: most places have none that does."""
        outer = self.outer.facts if isinstance(self.outer, PathCondition) else self.outer
        return outer if self.condition is None else outer.assuming(self.condition, self.truth)

    def within(self, condition: ir.Expr, truth: bool = True) -> PathCondition:
        return PathCondition(self, condition, truth)


def with_care(function: ir.Function) -> ir.Function:
    """The function with every scalar operator written so that it has a value."""
    if not any(map(is_delicate, ir.nodes(function))):
        return function
    everywhere = PathCondition(facts_of(function))
    equations = []
    for equation in function.equations:
        when = None if equation.when is None else careful(equation.when, everywhere)
        place = everywhere if equation.when is None else everywhere.within(equation.when)
        equations.append(replace(equation, value=careful(equation.value, place), when=when))
    outputs = tuple(replace(output, value=careful(output.value, everywhere)) for output in function.outputs)
    return replace(function, equations=tuple(equations), outputs=outputs)


def is_delicate(node: ir.Expr) -> bool:
    """Whether the node is a scalar operator for which Python's own will not do for all numbers."""
    return isinstance(node, ir.Apply) and node.type.is_scalar_phase and node.operator in CAREFUL


def careful(expr: ir.Expr, place: PathCondition) -> ir.Expr:
    match expr:
        case ir.Select(condition=condition) if condition.type.is_scalar_phase:
            return replace(
                expr,
                condition=careful(condition, place),
                then=careful(expr.then, place.within(condition)),
                otherwise=careful(expr.otherwise, place.within(condition, False)),
            )
        case ir.Apply(operator="not", arguments=(ir.Apply() as inner,)) if is_ordering(inner, place):
            return careful(replace(inner, operator=OPPOSITE[inner.operator]), place)
        case ir.Apply(operator="pow", arguments=(ir.Input() | ir.Ref() as base, ir.Literal(value=2.0))):
            square = replace(expr, operator="mul", arguments=(base, base))
            return square if is_delicate(expr) and not is_plain(expr, place.facts) else expr
        case ir.Apply() if is_delicate(expr) and not is_plain(expr, place.facts):
            written = replace(expr, operator=CAREFUL[expr.operator].name)
            return ir.map_children(lambda child: careful(child, place), written)
        case _:
            return ir.map_children(lambda child: careful(child, place), expr)


def is_ordering(node: ir.Apply, place: PathCondition) -> bool:
    """Whether a scalar comparison comes out as the opposite of its opposite: none of its numbers is NaN."""
    is_ordered = node.type.is_scalar_phase and node.operator in ("lt", "le", "gt", "ge")
    return is_ordered and not any(place.facts.interval(side).has_nan for side in node.arguments)


def is_plain(node: ir.Apply, facts: Facts) -> bool:
    """Whether Python's operator has the value that IEEE 754 gives."""
    return OPERATORS[node.operator].is_plain(*map(facts.interval, node.arguments))


def care_needed(expr: ir.Expr, place: PathCondition) -> int:
    """How many operators of an expression need care."""
    written = {row.name for row in CAREFUL.values()}
    return sum(isinstance(node, ir.Apply) and node.operator in written for node in ir.walk(careful(expr, place)))
