"""The values of a spec's hypers that are worth trying: defaults, what lies inside the conditions, and their edges.

Numbers are short in base 2, so that what is computed of them is exact where it can be; counts are whole. Who tries them
draws with a generator of its own: claims and properties with :meth:`HyperValues.draw`, scenarios with dice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice, product
from typing import Any, TypeAlias

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.types import Kind

Hyper: TypeAlias = "float | int | bool | str"
Values: TypeAlias = "dict[str, Hyper]"
Random: TypeAlias = np.random.Generator

COMPARISONS = ("lt", "le", "gt", "ge")
# A number that is no share of anything: these and what is near the default.
PLAIN = (0.0, 0.1, 0.5, 1.0, 2.0)
# A share, 0 <= x < 1: sums of powers of two, so that 1 - x is exact, and one that is not.
SHARES = (0.0, 0.5, 0.75, 0.9, 0.96875, 1.0)
WHOLE = (1, 2, 3)
SMALL = 1e-3  # a default up to this size is an eps
MOST_COMBINATIONS = 500
ATTEMPTS = 100


class NoValues(Exception):
    """No values that keep all conditions were found."""


class HyperValues:
    """The values to try for each hyper of an optimizer, the default first; ``fixed`` ones have only theirs."""

    def __init__(self, declaration: ir.Declaration, fixed: Mapping[str, Hyper] | None = None) -> None:
        self.declaration = declaration
        whole = {hyper.name for hyper in declaration.hypers if is_whole(hyper)}
        self.fixed = {name: as_count(v) if name in whole else v for name, v in (fixed or {}).items()}
        self.defaults = self._defaults()
        self.by_name = {hyper.name: self._values(hyper) for hyper in declaration.hypers}

    def _defaults(self) -> dict[str, Hyper]:
        """A value for every hyper; one that is required gets the first that its condition allows."""
        defaults: dict[str, Hyper] = {}
        for hyper in self.declaration.hypers:
            value = self.fixed.get(hyper.name, hyper.default and hyper.default.value)
            known: Hyper = 1.0 if value is None else value  # type: ignore[assignment]
            defaults[hyper.name] = as_count(known) if is_whole(hyper) else known
        for hyper in self.declaration.hypers:
            if hyper.default is None and hyper.name not in self.fixed:
                allowed = (v for v in candidates(hyper, self.edges) if self.holds({**defaults, hyper.name: v}))
                defaults[hyper.name] = next(allowed, defaults[hyper.name])
        return defaults

    def _values(self, hyper: ir.Hyper) -> tuple[Hyper, ...]:
        if hyper.name in self.fixed:
            return (self.fixed[hyper.name],)
        default = self.defaults[hyper.name]
        tried = [v for v in candidates(hyper, self.edges) if self.is_possible(hyper, v)]
        return tuple(dict.fromkeys((default, *tried)))

    @cached_property
    def edges(self) -> dict[str, list[float]]:
        """The numbers that each hyper is compared with in some condition."""
        found: dict[str, list[float]] = {}
        for requirement in self.declaration.requirements:
            for name, other in comparisons(requirement.condition):
                value = evaluate_constant(other, self.fixed | self.written)
                if isinstance(value, float | int):
                    found.setdefault(name, []).append(float(value))
        return found

    @property
    def written(self) -> Values:
        """The defaults that the spec itself gives."""
        return {hyper.name: hyper.default.value for hyper in self.declaration.hypers if hyper.default}  # type: ignore[misc]

    def is_possible(self, hyper: ir.Hyper, value: Hyper) -> bool:
        """Whether each condition on the hyper can hold with this value, whatever it takes of the others."""
        declared = {each.name: each for each in self.declaration.hypers}
        for requirement in self.declaration.requirements:
            names = {node.name for node in ir.walk(requirement.condition) if isinstance(node, ir.Input)}
            if hyper.name not in names:
                continue
            others = sorted(names - {hyper.name})
            choices = [[self.defaults[n], *candidates(declared[n], self.edges)] for n in others]
            if not any(
                is_true(requirement.condition, {hyper.name: value, **dict(zip(others, each, strict=True))})
                for each in islice(product(*choices), MOST_COMBINATIONS)
            ):
                return False
        return True

    def holds(self, hypers: Mapping[str, Hyper]) -> bool:
        """Whether these values satisfy all conditions."""
        return all(is_true(each.condition, hypers) for each in self.declaration.requirements)

    def draw(self, names: Sequence[str], random: Random) -> Values:
        """Values that keep every condition: the defaults, or some of them changed of the hypers named."""
        for attempt in range(ATTEMPTS):
            values = dict(self.defaults)
            share = float(random.choice((0.0, 0.3, 0.7))) * (1 - attempt / ATTEMPTS)
            for name in (name for name in names if random.random() < share):
                values[name] = self.by_name[name][int(random.integers(len(self.by_name[name])))]
            if self.holds(values):
                return values
        raise NoValues

    def allowed(self, wanted: Mapping[str, Hyper]) -> dict[str, Hyper]:
        """The wanted values, taken one after the other as long as all conditions hold; else the defaults.

        It goes through them twice, as some are only allowed once others are there.
        """
        chosen = dict(self.defaults)
        for name, value in (*wanted.items(), *wanted.items()):
            if self.holds({**chosen, name: value}):
                chosen[name] = value
        return chosen


def is_true(condition: ir.Expr, hypers: Mapping[str, Hyper]) -> bool:
    """Whether a condition holds; one without a value does not."""
    return bool(evaluate_constant(condition, hypers))


def comparisons(condition: ir.Expr) -> Iterator[tuple[str, ir.Expr]]:
    """``(hyper, what it is compared with)`` for every comparison in a condition, from either side."""
    for node in ir.walk(condition):
        if isinstance(node, ir.Apply) and node.operator in COMPARISONS:
            left, right = node.arguments
            for own, other in ((left, right), (right, left)):
                if isinstance(own, ir.Input):
                    yield own.name, other


def candidates(hyper: ir.Hyper, edges: Mapping[str, Sequence[float]]) -> list[Any]:
    """Values to try, whether or not the conditions allow them."""
    if hyper.kind is Kind.BOOLEAN:
        return [False, True]
    if hyper.kind is Kind.TEXT:
        return list(hyper.choices)
    own = edges.get(hyper.name, [])
    if is_whole(hyper):
        assert hyper.default is not None
        default = int(hyper.default.value)  # type: ignore[arg-type]
        return [default, *WHOLE, default - 1, default + 1]
    near = [float(hyper.default.value)] if hyper.default else []  # type: ignore[arg-type]
    scaled = [factor * value for value in near for factor in (0.5, 3.0, 1 / 16)]
    plain = () if any(map(is_small, near)) else PLAIN
    return [*own, *(SHARES if is_share(own) else (*plain, *scaled)), *chain(*(inside(edge) for edge in own))]


def is_whole(hyper: ir.Hyper) -> bool:
    """Whether the default is written as a count: 5 is, 0, 1 and 5.0 are not."""
    default = hyper.default
    return default is not None and default.spelling.isdecimal() and int(default.spelling) >= 2


def with_default_eps(declaration: ir.Declaration, values: Mapping[str, Hyper]) -> Values:
    """The values with every small constant at its default."""
    small = (hyper for hyper in declaration.hypers if hyper.default and is_small(hyper.default.value))
    return {**values, **{hyper.name: hyper.default.value for hyper in small if hyper.default}}  # type: ignore[misc]


def is_small(default: object) -> bool:
    return isinstance(default, float) and 0 < abs(default) <= SMALL


def as_count(value: Any) -> Hyper:
    """What counts is an int, for a class that gives it to `range`."""
    return int(value)


def is_share(edges: Sequence[float]) -> bool:
    return 0 in edges and 1 in edges


def inside(edge: float) -> tuple[float, float]:
    """Near an edge, on both sides."""
    return edge - 2.0**-7, edge + 2.0**-7
