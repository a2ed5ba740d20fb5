"""What the conditions of hypers and the choices of a spec say about its scalars, and how they are written by that."""

from __future__ import annotations

import math
import re

import pytest

from optforge.compiler.analysis import scalar_facts
from optforge.compiler.analysis.scalar_facts import facts_of
from optforge.compiler.driver import compile_program
from optforge.compiler.ir import intervals
from optforge.compiler.ir import nodes as ir
from optforge.compiler.targets.torch.render import render_program
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source

RULE = """
optimizer X:
    hyper lr = 0.1 where lr >= 0
    {hypers}
    for matrix:
        {equations}
        weight <- weight - lr * ({value}) * grad
"""


def rendered(value: str, hypers: tuple[str, ...] = (), equations: tuple[str, ...] = ()) -> str:
    text = RULE.format(value=value, hypers="\n    ".join(hypers), equations="\n        ".join(equations))
    program = compile_program(Source("x.opt", re.sub(r"\n +\n", "\n", text)), TORCH)
    return render_program(program, "Test.")


BETA = "hyper beta = 0.9 where 0 <= beta < 1"
WARMUP = "hyper warmup = 0 where warmup >= 0"
TOTAL = "hyper total = 9 where 0 <= warmup < total"
FREE = "hyper k = 0.5"
HALF = ("hyper one = 0.1 where 0 <= one <= two", "hyper two = 0.2 where two < 1")

PLAIN = [
    ("1 / (1 - beta^t)", (BETA,), "1 / (1 - beta**t)"),
    ("sqrt(1 - beta^t)", (BETA,), "math.sqrt(1 - beta**t)"),
    ("1 / (1 - one)", HALF, "1 / (1 - one)"),
    ("sqrt(rows / cols)", (), "math.sqrt(rows / cols)"),
    ("1 / sqrt(t)", (), "1 / math.sqrt(t)"),
    ("log(t)", (), "math.log(t)"),
    ("(t - 1)^0.25", (), "(t - 1) ** 0.25"),
    ("1 / (1 + (t - 1) * k^2)", (FREE,), "1 / (1 + (t - 1) * (k * k))"),
    ("t / warmup if t < warmup else 1", (WARMUP,), "t / warmup if t < warmup else 1"),
    ("1 / k if k != 0 else 1", (FREE,), "1 / k if k != 0 else 1"),
    ("1 if k == 0 else 1 / k", (FREE,), "1 if k == 0 else 1 / k"),
    ("1 if k == 0 or t == 1 else k / (t - 1)", (FREE,), "1 if k == 0 or t == 1 else k / (t - 1)"),
    ("1 / (1 - beta^(t - 1)) if t > 1 else 1", (BETA,), "1 / (1 - beta ** (t - 1)) if t > 1 else 1"),
    ("1 / (total - warmup)", (WARMUP, TOTAL), "1 / (total - warmup)"),
    ("max(k, 1) / max(2, k)", (FREE,), "max(k, 1) / max(2, k)"),
    ("mod(t, 1 + warmup)", (WARMUP,), "t % (1 + warmup)"),
    ("exp(-abs(k))", (FREE,), "math.exp(-abs(k))"),
    ("cos(min(max(k, -4), 4))", (FREE,), "math.cos(min(max(k, -4), 4))"),
    ("beta^k if k >= 0 else 1", (BETA, FREE), "beta**k if k >= 0 else 1"),
]

CAREFUL = [
    ("1 / (t - 2)", (), "ieee.divide(1, t - 2)"),
    ("1 / k", (FREE,), "ieee.divide(1, k)"),
    ("t / warmup", (WARMUP,), "ieee.divide(t, warmup)"),
    ("1 / (1 - beta^(t - 1))", (BETA,), "ieee.divide(1, 1 - beta ** (t - 1))"),
    ("1 / (1 - k^t)", (FREE,), "ieee.divide(1, 1 - ieee.power(k, t))"),
    ("sqrt(k)", (FREE,), "ieee.sqrt(k)"),
    ("(3 - t)^0.5", (), "ieee.power(3 - t, 0.5)"),
    ("2^t", (), "ieee.power(2, t)"),
    ("k^3", (FREE,), "ieee.power(k, 3)"),
    ("0^k", (FREE,), "ieee.power(0, k)"),
    ("exp(k)", (FREE,), "ieee.exp(k)"),
    ("log(t - 1)", (), "ieee.log(t - 1)"),
    ("cos(k)", (FREE,), "ieee.cos(k)"),
    ("floor(k)", (FREE,), "ieee.floor(k)"),
    ("floor(log(t) / 2)", (), "ieee.floor(math.log(t) / 2)"),  # Python's own makes an int
    ("mod(t, k)", (FREE,), "ieee.remainder(t, k)"),
    ("max(0, k - k)", (FREE,), "ieee.maximum(0, k - k)"),
    ("clamp(k / k, 0, 1)", (FREE,), "ieee.clamp(ieee.divide(k, k), 0, 1)"),
    # Nothing is known of the right side of `and`: a line that is too long computes it before the left one decides.
    ("1 if k > 0 and 1 / k < 2 else 2", (FREE,), "1 if k > 0 and ieee.divide(1, k) < 2 else 2"),
    # Where a comparison with NaN has failed, nothing is known.
    ("1 if k - k > t else k / (t - (k - k))", (FREE,), "ieee.divide(k, t - (k - k))"),
]


@pytest.mark.parametrize(("value", "hypers", "text"), PLAIN, ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_known_stays_plain(value: str, hypers: tuple[str, ...], text: str) -> None:
    found = rendered(value, hypers)
    assert text in found and "ieee." not in found


@pytest.mark.parametrize(("value", "hypers", "text"), CAREFUL, ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_not_known_is_written_with_care(value: str, hypers: tuple[str, ...], text: str) -> None:
    assert text in rendered(value, hypers)


def test_a_name_takes_its_value_along() -> None:
    """A scalar that has a name is known as well as one that has none, and is computed where it is needed."""
    found = rendered("min(1, ramp) if warmup > 0 else 1", (WARMUP,), ("ramp = t / warmup",))
    assert "if warmup > 0:\n        ramp = t / warmup\n" in found and "ieee" not in found
    found = rendered("(min(1, ramp) if warmup > 0 else 1) * ramp", (WARMUP,), ("ramp = t / warmup",))
    assert "    ramp = ieee.divide(t, warmup)\n" in found and "min(1, ramp)" in found


def test_a_scalar_that_has_a_value_everywhere_is_computed_at_its_place() -> None:
    found = rendered("half if warmup > 0 else 1", (WARMUP,), ("half = t / 2",))
    assert "\n    half = t / 2\n" in found


def test_conditions_know_those_before_them() -> None:
    hypers = ("hyper a = 1 where a > 0", "hyper b = 7 where 1 / a < b", "hyper c = 1 where 1 / (b - 5) < 1")
    found = rendered("a * b * c", hypers)
    assert 'require("b", b, "1 / a < b", 1 / a < b)' in found
    assert 'require("c", c, "1 / (b - 5) < 1", ieee.divide(1, b - 5) < 1)' in found


def test_hypers_of_older_checkpoints_promise_nothing() -> None:
    assert "ieee.divide(1, j)" in rendered("k", ("hyper k = 1 was 1 / j where k > 0",))


def test_a_contradiction_does_no_harm() -> None:
    """In a branch that is never taken anything may be believed."""
    assert rendered("1 / (t - 1) if t < 1 else sqrt(k) if k < 0 < k else 1", (FREE,))


def test_facts_of_chains_reach_both_ends() -> None:
    text = RULE.format(value="one", hypers="\n    ".join(HALF), equations="a = one")
    program = compile_program(Source("x.opt", text), TORCH)
    declaration = program.declarations[0]
    assert isinstance(declaration, ir.Optimizer)
    known = facts_of(declaration.rules[0].update)
    found = known.interval(declaration.requirements[1].value)
    assert (found.low, found.high, found.has_nan) == (0.0, 1 - 2**-53, False) and not math.isinf(found.high)


ZEROS = [
    ("0 * (1 / (t - 1))", False),
    ("log(t - 1) * 0", False),
    ("0 * 2^(400 * t)", False),
    ("0 * (3 * k + t)", True),
    ("0 * beta^t", True),
    ("0 * (1 / (1 - beta^t))", True),
]


@pytest.mark.parametrize(("value", "is_left_out"), ZEROS)
def test_zero_leaves_out_what_is_finite(value: str, is_left_out: bool) -> None:
    """A product with 0 is NaN where the other factor is infinite or NaN though all hypers are finite."""
    found = rendered(f"1 + {value}", (FREE, BETA))
    assert ("weight = weight.sub_(lr * grad)" in found) == is_left_out


CHAIN = (
    "a0 = 1 / (t - 1) if t > 1 else 0.5",
    *(f"a{i} = 1 / (t - {i} - a{i - 1}) if t > a{i - 1} else a{i - 1}" for i in range(1, 60)),
)


def test_names_of_names_in_choices_of_choices_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read three times by the next: what is looked at grows with the limit, not with the powers of three."""
    looked = 0
    found = scalar_facts.Facts._found

    def counted(self: scalar_facts.Facts, expr: ir.Expr) -> intervals.Interval:
        nonlocal looked
        looked += 1
        assert looked < 4 * scalar_facts.WORK_LIMIT
        return found(self, expr)

    monkeypatch.setattr(scalar_facts.Facts, "_found", counted)
    assert "a59 = " in rendered("a59", (), CHAIN) and looked


def test_what_is_too_much_to_find_out_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalar_facts, "WORK_LIMIT", 0)
    assert "ieee.divide(1, 1 - ieee.power(beta, t))" in rendered("1 / (1 - beta^t)", (BETA,))
