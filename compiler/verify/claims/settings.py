"""Values of hyperparameters to try: within their conditions, and on the edges of these.

Numbers come from the default, from what the conditions compare with, and from a few usual values; what breaks a
condition is drawn again. Whole numbers stay whole, since they count things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.types import Kind

Random: TypeAlias = np.random.Generator
Values: TypeAlias = dict[str, ir.Value]

USUAL = (0.0, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0, 2.0, 10.0)
LARGEST_COUNT = 40.0
SMALL = 1e-3  # a default up to this size is an eps
ATTEMPTS = 100


class NoValues(Exception):
    """No values that keep all conditions were found."""


def defaults_of(declaration: ir.Declaration) -> Values:
    return {hyper.name: hyper.default.value for hyper in declaration.hypers if hyper.default is not None}


def draw_hypers(declaration: ir.Declaration, hypers: Sequence[ir.Hyper], random: Random) -> Values:
    """Values that keep every condition: the defaults, or some of them changed of the hypers named."""
    for attempt in range(ATTEMPTS):
        values = defaults_of(declaration)
        share = float(random.choice((0.0, 0.3, 0.7))) * (1 - attempt / ATTEMPTS)
        for hyper in hypers:
            if hyper.default is None or random.random() < share:
                values[hyper.name] = draw_value(hyper, declaration, random)
        if keeps_conditions(declaration, values):
            return values
    raise NoValues


def draw_value(hyper: ir.Hyper, declaration: ir.Declaration, random: Random) -> ir.Value:
    match hyper.kind:
        case Kind.BOOLEAN:
            return bool(random.random() < 0.5)
        case Kind.TEXT:
            return str(random.choice(list(hyper.choices)))
        case _:
            candidates = numbers_for(hyper, declaration)
            return float(random.choice(candidates))


def numbers_for(hyper: ir.Hyper, declaration: ir.Declaration) -> Sequence[float]:
    """Numbers that a hyper may be tried with, whether or not its conditions allow them."""
    default = hyper.default.value if hyper.default is not None else 10.0
    assert isinstance(default, float)
    edges = [edge for each in declaration.requirements for edge in edges_of(each, hyper.name)]
    near = [edge + sign * 1e-3 * max(1.0, abs(edge)) for edge in edges for sign in (-1, 1)]
    if hyper.default is None or is_count(hyper.default):
        counts = {min(max(default + shift, 0.0), LARGEST_COUNT) for shift in (-2, -1, 0, 1, 2, 7, 20)}
        return sorted(counts if keeps_some(hyper, declaration, counts) else {*edges, *near, *USUAL})
    scaled = [default * factor for factor in (0.1, 0.5, 1, 2, 10)]
    return sorted({*edges, *near, *scaled, *(() if is_small(default) else USUAL)})


def keeps_some(hyper: ir.Hyper, declaration: ir.Declaration, numbers: Iterable[float]) -> bool:
    """Whether the hyper's own condition allows one of these numbers, or depends on others."""
    own = [each.condition for each in declaration.requirements if each.subject == hyper.name]
    return any(
        all(evaluate_constant(condition, {hyper.name: number}) is not False for condition in own) for number in numbers
    )


def is_small(default: ir.Value) -> bool:
    return isinstance(default, float) and 0 < abs(default) <= SMALL


def is_count(default: ir.Literal) -> bool:
    """Whether a default is spelled as a whole number above 0."""
    value = default.value
    return isinstance(value, float) and value >= 1 and default.spelling.isdigit()


def edges_of(requirement: ir.Requirement, name: str) -> list[float]:
    """The numbers that a condition compares a hyper with."""
    nodes = list(ir.walk(requirement.condition))
    if not any(isinstance(node, ir.Input) and node.name == name for node in nodes):
        return []
    return [node.value for node in nodes if isinstance(node, ir.Literal) and isinstance(node.value, float)]


def keeps_conditions(declaration: ir.Declaration, values: Mapping[str, ir.Value]) -> bool:
    return all(evaluate_constant(each.condition, values) is True for each in declaration.requirements)


def with_default_eps(declaration: ir.Declaration, values: Values) -> Values:
    """The values with every small constant at its default."""
    return values | {name: value for name, value in defaults_of(declaration).items() if is_small(value)}
