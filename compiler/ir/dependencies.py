"""The order in which equations can be computed, and the cycles that leave none."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from optforge.compiler.ir import nodes as ir

Name = TypeVar("Name", bound=Hashable)


def references(expr: ir.Expr) -> list[str]:
    """Names of the equations an expression reads, once per occurrence."""
    return [node.name for node in ir.walk(expr) if isinstance(node, ir.Ref)]


def dependencies(equations: Iterable[ir.Equation]) -> dict[str, list[str]]:
    """For each equation the equations it needs in the same step, in the order it reads them."""
    return {equation.name: list(dict.fromkeys(references(equation.value))) for equation in equations}


def ordered(graph: Mapping[str, Sequence[str]], roots: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """What the roots need, each name after its own needs; and the cycles found on the way."""
    order: list[str] = []
    cycles: list[list[str]] = []
    done: set[str] = set()
    for root in roots:
        path: dict[str, None] = {}
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.popitem()
                done.add(name)
                order.append(name)
            elif name in path:
                names = list(path)
                cycles.append([*names[names.index(name) :], name])
            elif name not in done:
                path[name] = None
                stack.append((name, True))
                stack.extend((needed, False) for needed in reversed(graph.get(name, ())))
    return order, cycles


def free_path(wanted: str, taken: set[str]) -> str:
    """The path itself, or with a number behind it where it is taken; it is taken from now on."""
    path, count = wanted, 1
    while path in taken:
        count += 1
        path = f"{wanted}.{count}"
    taken.add(path)
    return path


def sliced(function: ir.Function, outputs: tuple[ir.Output, ...]) -> ir.Function:
    """The function reduced to some outputs and the equations they need, in computing order."""
    graph = dependencies(function.equations)
    roots = [name for output in outputs for name in references(output.value)]
    order, _ = ordered(graph, roots)
    by_name = {equation.name: equation for equation in function.equations}
    return replace(function, equations=tuple(by_name[name] for name in order), outputs=outputs)


def names_read(expr: ir.Expr) -> set[str]:
    """The equations that an expression reads, in this step or the one before."""
    nodes = [node.stream if isinstance(node, ir.Prev) else node for node in ir.walk(expr)]
    return {node.name for node in nodes if isinstance(node, ir.Ref)}


def reachable(graph: Mapping[Name, Iterable[Name]], roots: Iterable[Name]) -> set[Name]:
    """The roots and all that they need, directly or not."""
    found: set[Name] = set()
    waiting = set(roots)
    while waiting:
        found |= waiting
        waiting = {needed for name in waiting for needed in graph.get(name, ())} - found
    return found


def inputs_of(function: ir.Function) -> list[ir.Input]:
    """The distinct inputs a function reads, in reading order."""
    return list({node.key: node for node in ir.nodes(function) if isinstance(node, ir.Input)}.values())
