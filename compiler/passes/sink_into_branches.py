"""Guards: an equation that only one branch of a Python choice needs is computed under its condition.

A scalar costs nothing, and has a value everywhere: it is computed under a condition only where it is easier to write
there, as is `t / warmup` where `warmup > 0` is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optforge.compiler.analysis.scalar_facts import facts_of
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import SCALAR, Kind, Phase, Type
from optforge.compiler.passes.careful import PathCondition, care_needed, is_delicate

Context = tuple[ir.Expr, ...]
GUARD_LIMIT = 4
BOOLEAN = Type(Kind.BOOLEAN, SCALAR, Phase.STEP)


def guard_branches(function: ir.Function) -> ir.Function:
    """The scheduled function with ``when`` set on equations whose every use stands under common conditions."""
    contexts: dict[EquationName, list[Context]] = {}
    everywhere = PathCondition(facts_of(function))
    for output in function.outputs:
        note_uses(output.value, (), contexts)
    guarded: list[ir.Equation] = []
    for equation in reversed(function.equations):
        common = shared_context(contexts.get(equation.name, [()]))
        if equation.value.type.is_scalar_phase and not is_eased(equation.value, common, everywhere):
            common = ()
        note_uses(equation.value, common, contexts)
        guarded.append(replace(equation, when=conjunction(common)))
    return replace(function, equations=tuple(reversed(guarded)))


def is_eased(scalar: ir.Expr, context: Context, everywhere: PathCondition) -> bool:
    """Whether Python's own operators may compute more of a scalar where the conditions hold."""
    if not context or not any(map(is_delicate, ir.walk(scalar))):
        return False
    inside = everywhere
    for condition in context:
        inside = inside.within(condition)
    return care_needed(scalar, inside) < care_needed(scalar, everywhere)


def note_uses(expr: ir.Expr, context: Context, contexts: dict[EquationName, list[Context]]) -> None:
    for name, place in uses(expr, context):
        contexts.setdefault(name, []).append(place)


def uses(expr: ir.Expr, context: Context) -> Iterator[tuple[EquationName, Context]]:
    """Each reference with the conditions it stands under."""
    if isinstance(expr, ir.Ref):
        yield expr.name, context
    elif isinstance(expr, ir.Select) and expr.condition.type.is_scalar_phase:
        opposite = ir.Apply("not", (expr.condition,), type=BOOLEAN, span=expr.condition.span)
        yield from uses(expr.condition, context)
        yield from uses(expr.then, with_condition(context, expr.condition))
        yield from uses(expr.otherwise, with_condition(context, opposite))
    else:
        for child in ir.children(expr):
            yield from uses(child, context)


def with_condition(context: Context, condition: ir.Expr) -> Context:
    """Conditions that read equations cannot guard: those might not be computed yet. A few are enough."""
    if (
        len(context) >= GUARD_LIMIT
        or any(isinstance(node, ir.Ref) for node in ir.walk(condition))
        or condition in context
    ):
        return context
    return (*context, condition)


def shared_context(contexts: list[Context]) -> Context:
    first, *others = contexts
    return tuple(condition for condition in first if all(condition in other for other in others))


def conjunction(context: Context) -> ir.Expr | None:
    result: ir.Expr | None = None
    for condition in context:
        result = ir.Apply("and", (result, condition), type=BOOLEAN) if result is not None else condition
    return result
