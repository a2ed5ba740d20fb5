"""A scenario: all that is done to two optimizers, as plain data.

Nothing in it is a tensor or a class. It prints as Python, goes to JSON and back, and equal scenarios mean equal
runs: the numbers of weights and gradients follow from the seed (`data.py`). It says nothing about what must hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from optforge.compiler.verify.shared.hyper_values import Hyper

Shape: TypeAlias = tuple[int, ...]

# The simplest first: shrinking goes that way.
GRADIENTS = ("normal", "zero", "missing", "repeated", "opposite", "one_row", "rank_one", "strided", "inf", "nan")
WEIGHTS = ("normal", "zero", "tiny", "large")


@dataclass(frozen=True)
class Gradient:
    """What one parameter gets in one step; ``exponent`` scales it by a power of two."""

    kind: str = "normal"
    exponent: int = 0


@dataclass(frozen=True)
class Group:
    """Parameters of one role with the hypers they start with; ``role`` is None where the shapes decide."""

    shapes: tuple[Shape, ...]
    hypers: Mapping[str, Hyper] = field(default_factory=dict)
    weights: str = "normal"
    role: str | None = None


@dataclass(frozen=True)
class Step:
    """One step: what comes before it, and a gradient for each parameter, group by group.

    ``changes`` are new hypers by group; ``saved`` puts a checkpoint into a new optimizer first; with ``closure`` the
    gradients come from a closure; ``events`` are methods to call, with their arguments.
    """

    gradients: tuple[Gradient, ...]
    changes: tuple[Mapping[str, Hyper], ...] = ()
    saved: bool = False
    closure: bool = False
    events: tuple[tuple[str, Mapping[str, Hyper]], ...] = ()


@dataclass(frozen=True)
class Scenario:
    """``order`` is how the other optimizer gets each group's parameters: its n-th is number ``order[n]``."""

    groups: tuple[Group, ...]
    steps: tuple[Step, ...]
    dtype: str = "float64"
    seed: int = 0
    order: tuple[tuple[int, ...], ...] = ()

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each parameter, group by group."""
        return tuple(shape for group in self.groups for shape in group.shapes)

    @property
    def owners(self) -> tuple[int, ...]:
        """The group of each parameter."""
        return tuple(index for index, group in enumerate(self.groups) for _ in group.shapes)

    def places(self, group: int) -> tuple[int, ...]:
        """The numbers of a group's parameters in the order in which the other optimizer gets them."""
        first = sum(len(each.shapes) for each in self.groups[:group])
        count = len(self.groups[group].shapes)
        order = self.order[group] if group < len(self.order) else tuple(range(count))
        return tuple(first + index for index in order)


def scenario_text(scenario: Scenario) -> str:
    """JSON of a scenario, on one line."""
    return json.dumps(asdict(scenario), separators=(",", ":"))


def read_scenario(text: str) -> Scenario:
    """The scenario that :func:`scenario_text` wrote; ValueError for anything else."""
    try:
        found = json.loads(text)
        return Scenario(
            groups=tuple(_group(each) for each in found["groups"]),
            steps=tuple(_step(each) for each in found["steps"]),
            dtype=str(found["dtype"]),
            seed=int(found["seed"]),
            order=tuple(tuple(each) for each in found["order"]),
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"no scenario: {problem!r}") from None


def _group(found: Mapping[str, Any]) -> Group:
    shapes = tuple(tuple(shape) for shape in found["shapes"])
    return Group(shapes, dict(found["hypers"]), found["weights"], found["role"])


def _step(found: Mapping[str, Any]) -> Step:
    return Step(
        gradients=tuple(Gradient(**each) for each in found["gradients"]),
        changes=tuple(dict(each) for each in found["changes"]),
        saved=bool(found["saved"]),
        closure=bool(found["closure"]),
        events=tuple((name, dict(arguments)) for name, arguments in found["events"]),
    )
