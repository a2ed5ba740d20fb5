"""Schedules against torch's LambdaLR with a hand-written factor, in the interpreter too; end points and conditions."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import optforge.generated
from optforge.compiler.driver import check_source
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import find_spec
from optforge.compiler.oracle.interpreter import schedule_factor
from optforge.dsl.source import Source
from tests.references.schedules import constant_factor, cosine_factor, linear_factor, power_cool_factor, wsd_factor

TOLERANCE = 4e-15


@dataclass(frozen=True)
class Case:
    """A schedule, the same by hand, and hypers; it runs beyond its end."""

    name: str
    factor: Callable[..., float]
    hypers: dict[str, float]

    def expected(self, t: float) -> float:
        return self.factor(t, **self.hypers)

    @property
    def steps(self) -> int:
        return int(self.hypers.get("total", 20)) + 4


ENDING = ({"total": 1}, {"total": 20}, {"total": 20, "warmup": 7}, {"total": 33.5, "warmup": 2.5, "final": 0.1})
WSDS = (*ENDING, {"total": 20, "warmup": 5, "decay": 0.75}, {"total": 30, "warmup": 4, "decay": 0.4, "final": 0.1})
CASES = [
    *(Case("Constant", constant_factor, hypers) for hypers in ({}, {"warmup": 7}, {"warmup": 2.5})),
    *(Case("Linear", linear_factor, hypers) for hypers in (*ENDING, {"total": 9, "final": 1})),
    *(Case("Cosine", cosine_factor, hypers) for hypers in (*ENDING, {"total": 9, "final": 1})),
    *(Case("WSD", wsd_factor, hypers) for hypers in WSDS if hypers != {"total": 1}),
    Case("WSD", wsd_factor, {"total": 1, "decay": 1}),
    *(
        Case("PowerCool", power_cool_factor, h)
        for h in ({"total": 20}, {"total": 9, "exponent": 0.5, "warmup": 1, "flat": 0.3})
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.hypers}")


def schedule(name: str) -> Any:
    return getattr(optforge.generated, name)


def two_groups() -> torch.optim.Optimizer:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    return optforge.generated.SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=2.0)


@every_case
def test_every_group_gets_the_lr_that_lambdalr_gives(case):
    ours, theirs = two_groups(), two_groups()
    one = schedule(case.name)(ours, **case.hypers)
    other = LambdaLR(theirs, lambda epoch: case.expected(epoch + 1))
    for _ in range(case.steps):
        found, expected = ([group["lr"] for group in optimizer.param_groups] for optimizer in (ours, theirs))
        assert found == pytest.approx(expected, rel=0, abs=TOLERANCE)
        ours.step()
        theirs.step()
        one.step()
        other.step()


@every_case
def test_interpreter_agrees(case):
    path = find_spec(case.name)
    program = check_source(Source(path.name, path.read_text(encoding="utf-8")), path.parent).require()
    (declaration,) = program.declarations
    assert isinstance(declaration, ir.Schedule)
    defaults = {h.name: h.default.value for h in declaration.hypers if h.default is not None}
    hypers = {name: float(value) for name, value in {**defaults, **case.hypers}.items()}
    for t in range(1, case.steps):
        found = schedule_factor(declaration, float(t), hypers)
        assert found == pytest.approx(case.expected(t), rel=0, abs=TOLERANCE)


def factors(name: str, steps: int, **hypers: float) -> list[float]:
    optimizer = two_groups()
    running = schedule(name)(optimizer, **hypers)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[1]["lr"] / 0.5)
        optimizer.step()
        running.step()
    return found


@pytest.mark.parametrize("name", ["Linear", "Cosine", "WSD"])
def test_end_points_are_exact(name):
    """The last warm-up step has the full lr, the last step the final one, and so have all after it."""
    found = factors(name, 25, total=20, warmup=4, final=0.125)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4] < 1 or name == "WSD"
    assert found[18] > 0.125 and found[19:] == [0.125] * 6
    assert factors(name, 20, total=20)[19] == 0


def test_shapes_of_the_falling_part():
    assert factors("Linear", 12, total=10, warmup=2)[5] == 0.5
    assert factors("Cosine", 12, total=10, warmup=2)[5] == pytest.approx(0.5, abs=1e-16)
    assert factors("Cosine", 12, total=10, warmup=2)[3] == pytest.approx((1 + 0.5**0.5) / 2, abs=1e-15)
    assert factors("WSD", 10, total=10, decay=0.5) == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0], abs=1e-15)
    assert factors("Constant", 5, warmup=2) == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "name, hypers, message",
    [
        ("Constant", {"warmup": -1}, "warmup"),
        ("Linear", {"total": 0}, "total"),
        ("Cosine", {"total": 10, "warmup": 10}, "warmup"),
        ("WSD", {"total": 10, "warmup": 9}, "warmup"),
        ("WSD", {"total": 10, "decay": 0}, "decay"),
        ("Linear", {"total": 10, "final": 1.5}, "final"),
    ],
)
def test_impossible_schedules_are_refused(name, hypers, message):
    with pytest.raises(ValueError, match=f"invalid {message}="):
        schedule(name)(two_groups(), **hypers)


def test_a_resumed_schedule_goes_on():
    straight = factors("WSD", 12, total=12, warmup=3, decay=0.5)
    optimizer = two_groups()
    running = optforge.generated.WSD(optimizer, total=12, warmup=3, decay=0.5)
    for _ in range(5):
        optimizer.step()
        running.step()
    fresh = two_groups()
    resumed = optforge.generated.WSD(fresh, total=12, warmup=3, decay=0.5)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(running.state_dict())
    found = []
    for _ in range(7):
        found.append(fresh.param_groups[1]["lr"] / 0.5)
        fresh.step()
        resumed.step()
    assert found == straight[5:]


SCHEDULES = [name for name in optforge.generated.__all__ if hasattr(getattr(optforge.generated, name), "factor")]
SETTINGS = [
    *({"total": 1.0}, {"total": 2.0, "warmup": 1.0}, {"total": 20.0}, {"total": 20.0, "warmup": 7.0}),
    *({"total": 20.0, "warmup": 19.0}, {"total": 33.5, "warmup": 2.5}),
]


def hyper_names(name: str) -> set[str]:
    return {n for n in inspect.signature(schedule(name).factor).parameters if n != "t"}


def valid_hypers(name: str) -> list[dict[str, float]]:
    """The settings that the schedule accepts, with its shape parameters at their defaults and at other values."""
    arguments = inspect.signature(schedule(name)).parameters
    defaults = {
        n: float(arguments[n].default) for n in hyper_names(name) if arguments[n].default is not arguments[n].empty
    }
    others = [
        {},
        *({n: value} for n in sorted(hyper_names(name) - {"total", "warmup"}) for value in (0.1, 0.5, 1.0, 10.0)),
    ]
    found = []
    for setting in SETTINGS:
        for other in others:
            hypers = {**defaults, **{n: v for n, v in setting.items() if n in hyper_names(name)}, **other}
            try:
                schedule(name).check_hypers(**hypers)
            except ValueError:
                continue
            found.append(hypers)
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_leaves_its_bounds_or_moves_after_its_end(name):
    """From the step before the first to far beyond the last, whatever the warm-up; falling once that is over."""
    accepted = valid_hypers(name)
    assert any(hypers["warmup"] == 0 for hypers in accepted) and any(hypers["warmup"] > 0 for hypers in accepted)
    for hypers in accepted:
        factor = functools.partial(schedule(name).factor, **hypers)
        warmup, last = hypers["warmup"], hypers.get("total", 20.0)
        times = [0, *range(1, math.ceil(last) + 1), math.ceil(last) + 7, 10 * last, 1e9]
        values = [factor(t) for t in times]
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in values), hypers
        assert factor(warmup) == 1 or warmup == 0
        assert factor(0) == (0 if warmup else 1)
        falling = [value for t, value in zip(times, values, strict=True) if t >= warmup]
        assert all(later <= earlier for earlier, later in pairwise(falling)), hypers
        if "total" in hypers:
            assert {factor(t) for t in (last, last + 0.5, last + 1, 2 * last + 3, 1e9)} == {factor(last)}, hypers
            assert factor(last) == hypers.get("final", 0)
