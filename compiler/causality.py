"""The order in which equations can be computed, and the cycles that leave none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optforge.compiler import ir
from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic, Label


def dependencies(equations: Iterable[ir.Equation]) -> dict[str, list[str]]:
    """For each equation the equations it needs in the same step, in the order it reads them."""
    return {equation.name: list(dict.fromkeys(ir.references(equation.value))) for equation in equations}


def ordered(graph: Mapping[str, Sequence[str]], roots: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """What the roots need, each name after its own needs; and the cycles found on the way."""
    order: list[str] = []
    cycles: list[list[str]] = []
    done: set[str] = set()
    for root in roots:
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(name)
                order.append(name)
            elif name in path:
                cycles.append([*path[path.index(name) :], name])
            elif name not in done:
                path.append(name)
                stack.append((name, True))
                stack.extend((needed, False) for needed in reversed(graph.get(name, ())))
    return order, cycles


def instantaneous_cycles(function: ir.Function) -> list[Diagnostic]:
    """A diagnostic for each cycle of equations that need each other within one step."""
    spans = {equation.name: equation.span for equation in function.equations}
    _, cycles = ordered(dependencies(function.equations), spans)
    found: dict[frozenset[str], Diagnostic] = {}
    for cycle in cycles:
        labels = [Label(spans[name], f"`{name}` is part of the cycle") for name in cycle[1:-1]]
        key = frozenset(cycle)
        found.setdefault(key, errors.instantaneous_cycle(cycle, spans[cycle[0]], labels))
    return list(found.values())


def sliced(function: ir.Function, outputs: tuple[ir.Output, ...]) -> ir.Function:
    """The function reduced to some outputs and the equations they need, in computing order."""
    graph = dependencies(function.equations)
    roots = [name for output in outputs for name in ir.references(output.value)]
    order, _ = ordered(graph, roots)
    by_name = {equation.name: equation for equation in function.equations}
    return ir.Function(function.name, function.universe, tuple(by_name[name] for name in order), outputs)


def inputs_of(function: ir.Function) -> list[ir.Input]:
    """The distinct inputs a function reads, in reading order."""
    values = [*(e.value for e in function.equations), *(o.value for o in function.outputs)]
    found = {(n.source, n.name): n for value in values for n in ir.walk(value) if isinstance(n, ir.Input)}
    return list(found.values())
