"""Gradients that are infinite, or whose squares are, in one element: every shipped class does what its equations say.

The interpreter says which elements are infinite or NaN afterwards, and what the others are. A weight that it loses is
lost in the class as well; there torch's `lerp` may make NaN of what the equations call infinite, and a norm spread it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.references import REFERENCES
from tests.specs.test_agreement import program
from tests.support.classes import SEEDS, UNDETERMINED, generated_classes, hyper_arguments, roles
from tests.support.trials import EPS64, Interpreted, states_of

SHAPES = {
    "matrix": ((5, 5), (4, 6)),
    "conv": ((3, 2, 2, 2),),
    "embedding": ((7, 4),),
    "head": ((7, 4),),
    "vector": ((5,), ()),
}
STEPS, LIMIT = 5, 1e-9
ALWAYS = SEEDS | {"ADOPT", "AdaMuon", "Lion", "SOAP", "SophiaH", "RMNP"}

Groups = list[tuple[str, list[nn.Parameter]]]


@dataclass(frozen=True)
class Moment:
    """A parameter and its states after a step."""

    weight: Tensor
    states: dict[str, Tensor]


def classes() -> list[Any]:
    return [
        pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in ALWAYS else pytest.mark.wide)
        for cls in generated_classes()
    ]


def parameters(cls: type[Any]) -> Groups:
    """Parameters of every role of the class, of the shapes for which its steps are determined."""
    generator = torch.Generator().manual_seed(0)
    shapes = {**SHAPES, "matrix": SHAPES["matrix"][:1], "conv": ()} if cls.__name__ in UNDETERMINED else SHAPES
    return [
        (role, [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes[role]])
        for role in roles(cls)
        if shapes[role]
    ]


def set_gradients(params: list[nn.Parameter], step: int, first: float | None) -> None:
    """Gradients whose first element is given."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if first is not None:
            p.grad.view(-1)[0] = first


def run(cls: type[Any], make: Callable[[Groups], Any], first: dict[int, float]) -> list[list[Moment]]:
    """All parameters before the first step and after each; ``first`` has the first elements of some gradients."""
    groups = parameters(cls)
    params = [p for _, group in groups for p in group]
    optimizer = make(groups)
    moments = [[Moment(p.detach().clone(), {}) for p in params]]
    for step in range(STEPS):
        for event, arguments in getattr(REFERENCES.get(cls.__name__), "EVENTS", {}).items():
            if step % 3 < 2 and not any(map(callable, arguments.values())):  # matrices have tests of their own
                set_gradients(params, step, first.get(step))
                getattr(optimizer, event)(**arguments)
        set_gradients(params, step, first.get(step))
        optimizer.step()
        moments.append([moment(p, optimizer.state[p]) for p in params])
    return moments


def moment(p: Tensor, state: Any) -> Moment:
    return Moment(p.detach().clone(), {name: x.detach().clone() for name, x in states_of(state).items()})


def both(cls: type[Any], hypers: dict[str, float], first: dict[int, float]) -> tuple[list[list[Moment]], ...]:
    """What the class does, and what its equations say."""
    required = {name: 1.0 for name, a in hyper_arguments(cls).items() if a.default is a.empty}
    given = {**required, **hypers}

    def make(groups: Groups) -> Any:
        return cls([{"params": params, "rule": role} for role, params in groups], backend="eager", **given)

    def interpret(groups: Groups) -> Interpreted:
        return Interpreted(program(cls.__name__), groups, **given)

    return run(cls, make, first), run(cls, interpret, first)


def short_averages(cls: type[Any]) -> dict[str, float]:
    """All decays so small that `lerp` starts from the newest value: torch writes that in another way."""
    defaults = {name: a.default for name, a in hyper_arguments(cls).items()}
    return {name: 0.25 for name, x in defaults.items() if isinstance(x, float) and 0.5 <= x < 1}


def differences(found: list[list[Moment]], expected: list[list[Moment]]) -> Iterator[tuple[int, int, str]]:
    """The steps, parameters and values that differ."""
    for step in range(1, STEPS + 1):
        for index, (mine, wanted, before) in enumerate(
            zip(found[step], expected[step], expected[step - 1], strict=True)
        ):
            lost, lost_here = ~wanted.weight.isfinite(), ~mine.weight.isfinite()
            if lost.any():
                if not lost_here[lost].all():
                    yield step, index, "a lost weight"
                continue
            if lost_here.any():
                yield step, index, "a weight that is kept"
                continue
            if not agree(mine.weight, wanted.weight, wanted.weight - before.weight, 2 * step * EPS64):
                yield step, index, "a step"
            for name, held in wanted.states.items():
                here = mine.states[name].reshape(held.shape)
                if not torch.equal(kinds(here), kinds(held)):
                    yield step, index, name
                elif not agree(here, held, held, EPS64):
                    yield step, index, f"values of {name}"


def agree(found: Tensor, wanted: Tensor, scale: Tensor, rounding: float) -> bool:
    """Whether finite elements differ by little of the scale, or by the rounding of what is wanted.

    The first, which may be much larger than the others, is looked at alone.
    """
    finite = wanted.isfinite().flatten()
    wrong, scale, wanted = (x.flatten().where(finite, 0) for x in (found - wanted, scale, wanted))
    others = slice(1, None)
    return all(
        wrong[part].norm() <= LIMIT * scale[part].norm() + rounding * (wanted[part].norm() + wanted[others].norm())
        for part in (slice(1), others)
    )


def kinds(x: Tensor) -> Tensor:
    """Each element as 0 where it is finite, else as what it is."""
    return torch.where(x.isfinite(), 0, x).nan_to_num(nan=2, posinf=1, neginf=-1)


@pytest.mark.parametrize("first", [math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("cls", classes())
def test_one_element_that_is_infinite_or_has_an_infinite_square(cls: type[Any], first: float) -> None:
    for hypers in ({}, short_averages(cls)):
        assert not list(differences(*both(cls, hypers, {1: first}))), hypers


@pytest.mark.parametrize("name", ["Lion", "Signum"])
def test_a_difference_that_is_infinite(name: str) -> None:
    """The state and the gradient are finite, and so is their average."""
    (cls,) = (cls for cls in generated_classes() if cls.__name__ == name)
    assert not list(differences(*both(cls, short_averages(cls), {1: 1.7e308, 2: -1.7e308})))
