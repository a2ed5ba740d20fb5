"""`optforge compare`: its measures against numbers known beforehand, and where it says that optimizers part."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optforge.compiler.commands.cli import main
from optforge.compiler.verify.comparison.compare import Row, compare, streams_of
from optforge.compiler.verify.comparison.measures import measure
from optforge.compiler.verify.comparison.runs import run_target
from optforge.compiler.verify.comparison.targets import TargetProblem, parse_target
from optforge.compiler.verify.comparison.trials import make_trials

# A class of a user, with one state, that is SGD until its third step.
USERS = """
import torch


class Late(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, extra=0.0):
        super().__init__(params, {"lr": lr, "extra": extra})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["t"] = state.get("t", 0) + 1
                buf = state.setdefault("buf", torch.zeros_like(p))
                buf.mul_(0.9).add_(p.grad)
                if state["t"] == 3:
                    buf.mul_(1 + group["extra"])
                p.sub_(group["lr"] * buf)


def broken(params):
    raise RuntimeError("no such machine")


class Stops(Late):
    def step(self):
        raise RuntimeError("out of luck")
"""
VARIANT = "optimizer Longer extends NAMO:\n    for matrix:\n        alpha = 2 * super\n"
TALLER = (
    "optimizer Taller extends NAMO:\n    for matrix:\n"
    "        weight <- weight - lr * alpha * max(1, rows / cols) * (orthogonalize(m) + weight_decay * weight)\n"
)
ORDERED = """
optimizer Ordered:
    hyper lr = 0.1 where lr >= 0

    for matrix:
        late = m + old
        old  = grad - prev(grad)
        m    = momentum(old, 0.9, nesterov=true)
        weight <- weight - lr * late
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("users_of_compare.py").write_text(USERS)
    Path("longer.opt").write_text(VARIANT)
    Path("taller.opt").write_text(TALLER)
    Path("ordered.opt").write_text(ORDERED)
    sys.modules.pop("users_of_compare", None)


def rows_of(*texts: str, states: dict[str, str] | None = None, **options: Any) -> list[Row]:
    """The rows of all targets but the first."""
    targets = [parse_target(text, states or {}) for text in texts]
    return [row for row in compare(targets, make_trials(**options)) if row.target is not targets[0]]


def divergences(*texts: str, **options: Any) -> list[tuple[int, str]]:
    found = [row.divergence for row in rows_of(*texts, dtypes=("float64",), **options)]
    return [(each.step, str(each.stream)) for each in found if each]


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_of_steps_known_by_hand() -> None:
    first, step = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 0.0], [0.0, 8.0]])
    found = measure(step, first, 0.5)
    assert found.rms == pytest.approx(8.0)
    assert found.ratio == pytest.approx(1.6)
    assert found.cosine == pytest.approx(0.8)
    assert found.difference == pytest.approx(1.0)
    assert found.spectral == pytest.approx(16.0)


def test_a_step_of_zero_has_no_direction() -> None:
    one, zero = np.ones((2, 2)), np.zeros((2, 2))
    assert (measure(zero, one, 1.0).ratio, measure(zero, one, 1.0).difference) == (0.0, 1.0)
    assert math.isnan(measure(zero, one, 1.0).cosine)
    assert math.isnan(measure(one, zero, 1.0).difference)
    assert measure(zero, zero, 1.0).difference == 0.0


def test_sizes_are_relative_to_the_lr_of_each_and_ratios_are_not() -> None:
    for row in rows_of("SGD?lr=0.1", "SGD?lr=0.2"):
        for each in row.measures.values():
            assert each.ratio == pytest.approx(2, rel=1e-3)
            assert each.cosine == pytest.approx(1, rel=1e-6)
        grad = next(iter(make_trials((row.trial.shape,)))).grads[0]
        assert row.measures[1].rms == pytest.approx(np.sqrt(np.mean(grad**2)), rel=1e-5)
        assert row.measures[1].spectral == pytest.approx(np.linalg.norm(grad, 2), rel=1e-5)


def test_trials_are_the_same_numbers_in_both_precisions() -> None:
    double, single = make_trials(((5, 3),))
    assert np.array_equal(double.weight, single.weight) and np.array_equal(double.grads, single.grads)
    assert np.array_equal(double.grads, np.array(double.grads, np.float32))
    (other,) = make_trials(((5, 3),), seed=2, dtypes=("float64",))
    assert not np.array_equal(double.weight, other.weight)


# -- agreement and divergence ------------------------------------------------------------------------------------------


def test_a_spec_and_torchs_class_agree_in_every_step() -> None:
    names = {"exp_avg": "m", "exp_avg_sq": "v"}
    for row in rows_of("adamw", "torch.optim:AdamW", states=names, dtypes=("float64",)):
        assert row.worst < 1e-9 and row.divergence is None


def test_states_are_compared_under_the_names_given() -> None:
    """Crossed over, the first state differs."""
    names = {"exp_avg": "v", "exp_avg_sq": "m"}
    found = divergences("AdamW", "torch.optim:AdamW", states=names)
    assert found == [(1, "state `m`")] * 3


@pytest.mark.parametrize(
    ("others", "same", "sentence"),
    [
        (
            ["torch.optim:AdamW"],
            ["m=exp_avgs"],
            "no class keeps a state `exp_avgs`; there are exp_avg, exp_avg_sq, step",
        ),
        (
            ["torch.optim:AdamW"],
            ["n=exp_avg"],
            "no target keeps a state `n`; there are exp_avg, exp_avg_sq, m, step, v",
        ),
        (["Lion"], ["m=m"], "no class keeps a state `m`; there is none"),
        (["torch.optim:AdamW"], ["m=exp_avg", "v=exp_avg"], "--same is given twice for the same state of a class"),
    ],
)
def test_names_of_states_that_nothing_keeps_are_refused(
    others: list[str], same: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be compared with nothing, and the targets found to agree."""
    named = [part for each in same for part in ("--same", each)]
    assert main(["compare", "AdamW", *others, *named, "--shape", "2x2", "--steps", "1"]) == 2
    out, said = capsys.readouterr()
    assert not out and sentence in said and said.count("\n") == 1


def test_the_first_equation_that_differs_is_named() -> None:
    assert divergences("NAMO", "longer.opt") == [(1, "equation `alpha`")] * 3
    assert divergences("NAMO", "NAMOD?lr=0.01") == [(1, "state `v`")] * 3
    (row,) = rows_of("NAMO", "longer.opt", shapes=((4, 4),), dtypes=("float64",))
    assert row.divergence and row.divergence.ratio == pytest.approx(2)


def test_where_only_the_result_differs_it_is_the_weight_and_only_for_the_shape_that_does() -> None:
    rows = rows_of("NAMO", "taller.opt:Taller", dtypes=("float64",))
    assert [str(row.divergence.stream) if row.divergence else None for row in rows] == [None, "the weight", None]
    assert rows[1].measures[1].ratio == pytest.approx(3)


def test_the_step_of_a_divergence() -> None:
    ours, theirs = "SGD?lr=0.1&momentum=0.9", "users_of_compare:Late"
    assert divergences(ours, theirs, states={"buf": "m"}) == []
    assert divergences(ours, f"{theirs}?extra=1e-3", states={"buf": "m"}) == [(3, "state `m`")] * 3
    assert divergences(ours, f"{theirs}?extra=1e-3") == [(3, "the weight")] * 3
    assert divergences(ours, f"{theirs}?extra=1e-12", states={"buf": "m"}) == []
    (row,) = rows_of(ours, f"{theirs}?extra=1e-3", shapes=((4, 4),), dtypes=("float64",))
    assert row.divergence and row.divergence.ratio == pytest.approx(1.001, rel=1e-9), "of the third step"
    assert row.divergence.difference == pytest.approx(1e-3, rel=1e-9)
    rounding = 1e-12  # torch's fused kernel rounds on its own
    assert row.measures[1].difference <= rounding and row.worst >= 1e-3 * (1 - rounding)


def test_streams_are_ordered_by_what_they_depend_on() -> None:
    """A state comes right after what it keeps: the average of `m` before the mix of it that is called `m`."""
    target = parse_target("ordered.opt")
    (trial,) = make_trials(((3, 2),), steps=1, dtypes=("float64",))
    (streams,) = streams_of(target, run_target(target, trial), trial)
    assert [str(stream) for stream in streams] == [
        "state `prev_grad`", "equation `old`", "state `m`", "equation `m`", "equation `late`", "the weight",
    ]  # fmt: skip


def test_two_classes_are_compared_by_their_states() -> None:
    found = divergences("users_of_compare:Late", "users_of_compare:Late?extra=0.5")
    assert found == [(3, "state `buf`")] * 3


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_table_of_a_step_twice_as_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "SGD?lr=0.5", "SGD?lr=1", "--shape", "3x1", "--steps", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, names, first, other, part, *_ = out.splitlines()
    assert head.split() == ["step", "1"]
    assert names.split() == ["tall", "3x1,", "float64", "rms/lr", "ratio", "cosine", "difference", "spectral/lr"]
    assert first.split()[0] == "SGD?lr=0.5" and first.split()[2:5] == ["1.000000", "1.000000", "0.0e+00"]
    assert other.split()[0] == "SGD?lr=1" and other.split()[2:5] == ["2.000000", "1.000000", "1.0e+00"]
    assert first.split()[1] == other.split()[1], "per unit of lr both are the gradient"
    assert part == (
        "  SGD?lr=1: first differs in the weight at step 1 (ratio 2.000000, cosine 1.000000, difference 1.0e+00)"
    )


def test_the_table_says_where_shapes_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "NAMO", "NAMOD", "--shape", "3x2"]) == 0
    assert "  NAMOD: first differs in state `v` at step 1 (1x2 instead of 1x1)\n" in capsys.readouterr().out


def test_json_has_a_row_for_each_target_shape_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "SGD?lr=0", "longer.opt", "Muon", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["target"], *row["shape"], row["dtype"]) for row in rows[:4]] == [
        ("SGD?lr=0", 32, 32, "float64"),
        ("longer.opt", 32, 32, "float64"),
        ("Muon", 32, 32, "float64"),
        ("SGD?lr=0", 32, 32, "float32"),
    ]
    assert len(rows) == 18
    assert set(rows[1]["steps"]) == {"1", "10"}
    assert rows[1]["steps"]["1"]["cosine"] is None, "the first does not move"
    assert rows[1]["first_divergence"]["name"] == "m"


@pytest.mark.parametrize(
    "target, message",
    [
        ("Muoon", "there is no shipped spec of `Muoon`; did you mean `Muon`?"),
        ("nowhere.opt", "there is no file nowhere.opt"),
        ("longer.opt:Shorter", "longer.opt defines no `Shorter`, but Longer"),
        ("UBA", "UBA: UBA is a schedule, not an optimizer"),
        ("Muon?lr", "Muon?lr: options are written ?name=value&name=value, not `lr`"),
        ("Muon?lr=1&lr=2", "Muon?lr=1&lr=2: `lr` is given twice"),
        ("Muon?lr=-1", "Muon?lr=-1: invalid lr=-1: the condition is lr >= 0"),
        ("torch.optim:Moun", "torch.optim:Moun: torch.optim has no class `Moun`"),
        ("no_such_module:A", "no_such_module:A: No module named 'no_such_module'"),
        ("users_of_compare:broken", "users_of_compare:broken: no such machine"),
        ("users_of_compare:Stops", "users_of_compare:Stops, step 1: RuntimeError: out of luck"),
    ],
)
def test_a_target_that_is_wrong_is_a_wrong_command(
    target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "Muon", target]) == 2
    assert capsys.readouterr() == ("", f"optforge: {message}\n")


def test_a_wrong_spec_shows_its_diagnostics(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.opt").write_text(VARIANT.replace("super", "supper"))
    assert main(["compare", "Muon", "wrong.opt"]) == 1
    assert "error[E012]: unknown name `supper`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 1e-3), ("(0.9,0.99)", (0.9, 0.99)), ("true", True), ("False", False), ("None", None), ("svd", "svd")],
)
def test_values_of_options(text: str, value: Any) -> None:
    from optforge.compiler.verify.comparison.targets import parse_options

    assert parse_options(f"a={text}", "") == {"a": value}


def test_the_working_directory_is_left_out_of_the_path_again() -> None:
    before = list(sys.path)
    with pytest.raises(TargetProblem):
        parse_target("no_such_module:A")
    parse_target("users_of_compare:Late")
    assert sys.path == before
