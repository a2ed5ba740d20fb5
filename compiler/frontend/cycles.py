"""Cycles: equations that need each other within one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import references, sort_topologically
from optforge.compiler.ir.names import EquationName
from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic, Label

SHOWN = 8  # equations of a cycle; longer ones are shown in part


def instantaneous_cycles(function: ir.Function) -> list[Diagnostic]:
    """A diagnostic for each cycle of equations that need each other within one step."""
    spans = {equation.name: equation.span for equation in function.equations}
    graph = {e.name: list(dict.fromkeys(references(without_initials(e.value)))) for e in function.equations}
    _, cycles = sort_topologically(graph, spans)
    found: dict[frozenset[EquationName], Diagnostic] = {}
    for cycle in cycles:
        shown = shown_cycle(cycle)
        labels = [Label(spans[name], f"`{name.word}` is part of the cycle") for name in shown[1:-1][:SHOWN]]
        words = [name.word for name in shown]
        words = words if len(shown) <= SHOWN + 2 else [*words[:SHOWN], "...", *words[-2:]]
        found.setdefault(frozenset(cycle), errors.instantaneous_cycle(words, spans[shown[0]], labels))
    return list(found.values())


def without_initials(expr: ir.Expr) -> ir.Expr:
    """The expression as far as it is computed in every step: initial values matter only once."""
    if isinstance(expr, ir.Prev):
        return replace(expr, initial=ir.Literal(0.0, "0"))
    return ir.map_children(without_initials, expr)


def shown_cycle(cycle: Sequence[EquationName]) -> list[EquationName]:
    """The cycle through what the rule itself defines; the inside of functions only where there is nothing else."""
    own = [name for name in cycle[:-1] if name.is_written] or list(cycle[:-1])
    return [*own, own[0]]
