"""What a rule and the owners of its matrices both compute stands in a module once: the rule calls their function."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace

from optforge.compiler.targets.torch.functions import PyFunction, parameters_of
from optforge.compiler.targets.torch.statements import WIDTH, fits

LEAST = 3  # lines that are worth a call
GOES_ON = (" ", "else:")  # how a line begins that belongs to the statement before it


def call_owners(rule: PyFunction, functions: Iterable[PyFunction]) -> PyFunction:
    """The rule with a call in the place of the lines of each of the functions, where all of these stand in it.

    Equal lines compute the same of equal names, to the bit and to what is written in place.
    """
    for function in functions:
        size = len(function.body)
        for place in range(len(rule.body) - size + 1 if size >= LEAST else 0):
            before, lines, after = rule.body[:place], rule.body[place : place + size], rule.body[place + size :]
            if lines == function.body and can_be_called(function, rule, after):
                rule = replace(rule, body=(*before, *call_lines(function), *after))
                break
    return rule


def can_be_called(function: PyFunction, rule: PyFunction, after: Sequence[str]) -> bool:
    """Whether the lines end there, the rest of the rule reads of them what is returned, and the name is free."""
    if after and after[0].startswith(GOES_ON):
        return False
    needed = names_in(function.body, ast.Store) & names_in((*after, *rule.returns), ast.Load)
    own = {*parameters_of(rule)} | names_in(rule.body, ast.Store)
    return bool(needed) and needed <= {*results_of(function)} and function.name not in own


def names_in(lines: Sequence[str], context: type[ast.expr_context]) -> set[str]:
    """The names that lines of a function read or set."""
    nodes = ast.walk(parse_lines(lines))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def parse_lines(lines: Sequence[str]) -> ast.Module:
    return ast.parse("\n".join(("def f():", *(f"    {line}" for line in lines))))


def results_of(function: PyFunction) -> list[str]:
    """The names of what the function returns; none where it returns what has no name."""
    (values,) = (node.value for node in ast.walk(parse_lines(function.returns)) if isinstance(node, ast.Return))
    assert isinstance(values, ast.Tuple)
    names = [each.id for each in values.elts if isinstance(each, ast.Name)]
    return names if len(names) == len(values.elts) else []


def call_lines(function: PyFunction) -> list[str]:
    """``results = function(...)``, by the names that the function has for them."""
    results = results_of(function)
    target = ", ".join(results) if len(results) > 1 else f"({results[0]},)"
    arguments = [f"{each}={each}" if each in function.scalars else each for each in parameters_of(function)]
    flat = f"{target} = {function.name}({', '.join(arguments)})"
    long = [f"{target} = {function.name}(", *(f"    {each}," for each in arguments), ")"]
    return [flat] if fits(flat, WIDTH) else long
