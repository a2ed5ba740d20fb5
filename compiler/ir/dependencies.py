"""The order in which equations can be computed, and the cycles that leave none."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import CONSTANT, Dim

Item = TypeVar("Item", bound=Hashable)


def references(expr: ir.Expr) -> list[EquationName]:
    """Names of the equations an expression reads, once per occurrence."""
    return [node.name for node in ir.walk(expr) if isinstance(node, ir.Ref)]


def put_in(expr: ir.Expr, values: Mapping[EquationName, ir.Expr]) -> ir.Expr:
    """The expression with values in the place of the equations that have one."""
    return ir.transform(lambda node: values.get(node.name, node) if isinstance(node, ir.Ref) else node, expr)


def dependencies(equations: Iterable[ir.Equation]) -> dict[EquationName, list[EquationName]]:
    """For each equation the equations it needs in the same step, in the order it reads them."""
    return {equation.name: list(dict.fromkeys(references(equation.value))) for equation in equations}


def sort_topologically(
    graph: Mapping[Item, Sequence[Item]], roots: Iterable[Item]
) -> tuple[list[Item], list[list[Item]]]:
    """What the roots need, each name after its own needs; and the cycles found on the way."""
    order: list[Item] = []
    cycles: list[list[Item]] = []
    done: set[Item] = set()
    for root in roots:
        path: dict[Item, None] = {}
        stack: list[tuple[Item, bool]] = [(root, False)]
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


def slice_function(function: ir.Function, outputs: tuple[ir.Output, ...]) -> ir.Function:
    """The function reduced to some outputs and the equations they need, in computing order."""
    graph = dependencies(function.equations)
    roots = [name for output in outputs for name in references(output.value)]
    order, _ = sort_topologically(graph, roots)
    by_name = {equation.name: equation for equation in function.equations}
    return replace(function, equations=tuple(by_name[name] for name in order), outputs=outputs)


def names_read(expr: ir.Expr) -> list[EquationName]:
    """The equations that an expression reads, in this step or the one before, each once."""
    nodes = [node.stream if isinstance(node, ir.Prev) else node for node in ir.walk(expr)]
    return list(dict.fromkeys(node.name for node in nodes if isinstance(node, ir.Ref)))


def reachable(graph: Mapping[Item, Iterable[Item]], roots: Iterable[Item]) -> set[Item]:
    """The roots and all that they need, directly or not."""
    found: set[Item] = set()
    waiting = set(roots)
    while waiting:
        found |= waiting
        waiting = {needed for name in waiting for needed in graph.get(name, ())} - found
    return found


def inputs_of(function: ir.Function) -> list[ir.Input]:
    """The distinct inputs a function reads, in reading order."""
    found = {node.key: node for node in ir.nodes(function) if isinstance(node, ir.Input)}
    if any(spreads_over_rank(node) for node in ir.nodes(function)):
        rank = ir.Input(function.rank, ir.InputSource.DIMENSION, type=CONSTANT)
        found.setdefault(rank.key, rank)
    return list(found.values())


def spreads_over_rank(node: ir.Expr) -> bool:
    """Whether a value is made of one that lacks the dimension, whose size must then be known."""
    return isinstance(node, ir.Apply) and node.operator == "fill" and Dim.RANK in (node.type.shape or ())


def given_by(event: ir.Event) -> tuple[ir.Hyper, ...]:
    """The arguments that every parameter has its own matrix of."""
    return tuple(each for each in event.parameters if each.shape)


def calls_of(rules: Iterable[ir.Rule]) -> dict[str, tuple[ir.Hyper, ...]]:
    """What a call of each event takes: the arguments of all rules that have it, which are fired together."""
    calls: dict[str, dict[str, ir.Hyper]] = {}
    for event in (event for rule in rules for event in rule.events):
        known = calls.setdefault(event.name, {})
        for argument in event.parameters:
            known.setdefault(argument.name, argument)
    return {name: tuple(arguments.values()) for name, arguments in calls.items()}
