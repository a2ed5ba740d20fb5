"""First values of states that are asked for in several places: one value may be written in several ways."""

from __future__ import annotations

import pytest
import torch

from optforge import SpecError, compile_source

FUNCTIONS = "def twice(s) = s + s * s\ndef deep(s) = twice(2 * s) * s\ndef kept(s) = s + 0.5 * prev(s)\n"


def steps(*equations: str) -> torch.Tensor:
    lines = "\n        ".join(equations)
    module = compile_source(f"{FUNCTIONS}optimizer Case:\n    for tensor:\n        {lines}\n")
    p = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
    optimizer = module.Case([p])
    for step in range(3):
        p.grad = torch.cos(p.detach() + step)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("twice(2 * grad)", "twice(2 * grad)"),
        ("deep(deep(grad + 1))", "deep(deep(grad + 1))"),
        ("twice(2 * grad)", "named"),
        ("named + 1", "twice(2 * grad) + 1"),
        ("1", "1.0"),
    ],
)
def test_equal_first_values_are_one(one: str, other: str) -> None:
    named, update = "named = twice(2 * grad)", "weight <- weight - m"
    once = steps(named, f"old = prev(m, {one})", "m = 0.1 * grad * old + 0.2 * old", update)
    assert torch.equal(steps(named, f"m = 0.1 * grad * prev(m, {one}) + 0.2 * prev(m, {other})", update), once)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("twice(2 * grad)", "twice(3 * grad)"),
        ("twice(2 * grad)", "twice(2 * weight)"),
        ("kept(2 * grad)", "kept(2 * grad)"),  # each call has a state of its own
        ("0.0", "-0.0"),
    ],
)
def test_others_are_not(one: str, other: str) -> None:
    with pytest.raises(SpecError, match="two different initial values"):
        steps(f"m = 0.1 * grad * prev(m, {one}) + 0.2 * prev(m, {other})", "weight <- weight - m")
