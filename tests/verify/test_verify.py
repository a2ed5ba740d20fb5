"""`optforge verify`: true claims hold, false ones are refuted by values, and rounding is neither."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optforge.compiler.analysis.polynomials import polynomial_of, power_text
from optforge.compiler.commands.cli import main
from optforge.compiler.driver import Snapshot, check_file, check_source
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import ROWS, once_per_result
from optforge.compiler.verify.claims.cost_claims import direction_of_excess, exponent_along
from optforge.compiler.verify.claims.decide import decide
from optforge.compiler.verify.claims.watch import questions_of, subjects_of
from optforge.compiler.verify.properties.metamorphic import PROPERTIES, decide_property
from optforge.compiler.verify.shared.budget import Budget
from optforge.compiler.verify.shared.gradients import STREAMS
from optforge.compiler.verify.shared.verdicts import Proved, Refuted, Unknown, Verdict
from optforge.compiler.verify.shared.verdicts import Tested as Held  # pytest collects what is called Test...
from optforge.dsl.printer import print_expression
from optforge.dsl.source import Source

SPECS = Path(__file__).parents[2] / "specs"

RULE = """
optimizer Sample:
    hyper lr   = 0.1 where lr >= 0
    hyper beta = 0.9 where 0 <= beta < 1
    hyper eps  = 1e-8 where eps > 0

    for matrix:
        m = momentum(grad, beta)
        v = ema(grad^2, beta)
        o = orthogonalize(m, method="svd")
        u = m / (sqrt(v) + eps)
        weight <- weight - lr * (STEP)

        claim CLAIM
"""


def unit_of(text: str, path: Path = SPECS / "sample.opt") -> Snapshot:
    source = Source(path.name, text)
    return check_source(source, path.parent)


def verdicts_of(snapshot: Snapshot, examples: int = 40, only: str = "") -> dict[str, Verdict]:
    """The verdict on each claim of a file, or on the one with this text."""
    questions = [each for subject in subjects_of(snapshot) for each in questions_of(subject, Budget(examples))]
    texts = {print_expression(question.claim.written): question for question in questions}
    return {text: decide(question) for text, question in texts.items() if only in ("", text)}


def verdict(claim: str, step: str = "u", examples: int = 40) -> Verdict:
    (only,) = verdicts_of(unit_of(RULE.replace("STEP", step).replace("CLAIM", claim)), examples).values()
    return only


# Every form, true and false

TRUE = [
    ("norm(o, per=row) <= 1", "o"),
    ("dot(m, o) == trace(m' @ o)", "o"),
    ("(grad + 1e8) - 1e8 == grad", "u"),
    ("det(3 * (grad @ grad')) == 3^rows * det(grad @ grad')", "u"),  # rounding alone, where there are more rows
    ("0 <= v <= prev(v) + grad^2", "u"),
    ("t > 1 or abs(m - (1 - beta) * grad) <= 0", "u"),
    ("not (abs(u) > 1.0001 and t == 1 and beta == 0)", "u"),
    ("orthogonal(o)", "o"),
    ("scale_free(grad)", "u"),
    ("scale_free(grad)", "o"),
    ("equivariant(rows)", "rownorm(m)"),
    ("equivariant(cols)", "orthogonalize(m)"),
]
FALSE = [
    ("norm(o, per=row) <= 0.99", "o"),
    ("dot(m, o) == trace(m' @ o) * 1.000001", "o"),
    ("grad * 1.000001 == grad", "u"),
    ("v > 0", "u"),
    ("v >= prev(v)", "u"),
    ("t > 1 or abs(m) <= 0", "u"),
    ("not (abs(u) > 0.3 and t == 1)", "u"),
    ("orthogonal(o * 1.000001)", "o"),
    ("orthogonal(orthogonalize(m))", "o"),
    ("scale_free(grad)", "u + 1e-5 * grad"),
    ("scale_free(grad)", "u * (1 + 1e-6 * cos(log(norm(grad) + 1)))"),
    ("scale_free(grad)", "clip_norm(grad, 1)"),
    ("scale_free(grad)", "momentum(grad + weight, beta) |> rownorm"),
    ("equivariant(rows)", "qr(grad @ grad') @ grad"),
    ("equivariant(rows)", "o + 1e-6 * (qr(m @ m') @ o)"),
    ("equivariant(cols)", "grad @ qr(grad' @ grad)"),
]


@pytest.mark.parametrize("claim, step", TRUE)
def test_true_claims_are_tested(claim: str, step: str) -> None:
    found = verdict(claim, step)
    assert isinstance(found, Held) and found.cases >= 10


@pytest.mark.parametrize("claim, step", FALSE)
def test_false_claims_are_refuted(claim: str, step: str) -> None:
    assert isinstance(verdict(claim, step), Refuted)


@pytest.mark.parametrize(
    "claim, holds",
    [
        ("state(2 * rows * cols)", True),
        ("state(rows * cols * 2 + 0 * rows)", True),
        ("state((rows + cols)^2 - rows^2 - cols^2)", True),
        ("state(2 * max(rows, cols) * min(rows, cols))", True),
        ("state(2 * rows * cols + rows + cols - max(rows, cols) - min(rows, cols))", True),
        ("state(2 * rows * cols + 1)", False),
        ("state(2 * max(rows, cols)^2)", False),
        ("state(rows^2 + cols^2)", False),
        ("communicates(2 * rows * cols)", True),  # the momentum goes down, and o comes up
        ("communicates(2 * min(rows, cols) * max(rows, cols))", True),
        ("communicates(0)", False),
        ("communicates(rows * cols)", False),
        ("communicates(2 * rows * cols + 1)", False),
        ("cost(rows * cols * min(rows, cols))", True),
        ("cost(rows^2 * cols)", True),
        ("cost(rows * cols * max(rows, cols))", True),
        ("cost(lr * rows^3 + 7 * cols^3)", True),
        ("cost(rows * cols)", False),
        ("cost(rows^2 + cols^2)", False),
        ("cost(rows^3)", False),
    ],
)
def test_state_cost_and_communication_are_proved_or_refuted(claim: str, holds: bool) -> None:
    found = verdict(claim, "u + o")
    assert isinstance(found, Proved if holds else Refuted)


def test_a_wrong_claim_about_communication_says_what_is_sent() -> None:
    found = verdict("communicates(0)", "o * norm(grad) + total(norm(grad)^2) * u")
    assert isinstance(found, Refuted)
    shown = dict(found.values)
    assert (shown["to the owner"], shown["and back"]) == ("m", "o"), shown
    assert shown["sums over shards"] == "norm(grad)" and len(shown["sums over all parameters"].split(", ")) == 1
    assert shown["in all"] == "2 * rows * cols + 2"


@pytest.mark.parametrize(
    "claim", ["norm(u) / (eps - eps) == 1", "cost(exp(rows))", "state(sqrt(rows))", "communicates(sqrt(rows))"]
)
def test_what_nothing_decides_stays_unknown(claim: str) -> None:
    assert isinstance(verdict(claim), Unknown)


def test_claims_of_penalties_are_about_their_weights() -> None:
    text = """
penalty Size:
    hyper strength = 0.1 where strength >= 0

    for matrix:
        size = norm(weight)^2
        loss <- strength * size

        claim size == trace(weight @ weight')
        claim size > 0
"""
    assert [type(each) for each in verdicts_of(unit_of(text)).values()] == [Held, Refuted]


@pytest.mark.parametrize("condition, holds", [("0 < share < 1", True), ("share > 1e9", True), ("share < share", False)])
def test_required_hypers_get_values_that_their_conditions_allow(condition: str, holds: bool) -> None:
    text = f"""
schedule Falling:
    hyper share where {condition}

    value = share^t
    factor <- value

    claim value <= prev(value, share) or share > 1
"""
    assert [type(each) for each in verdicts_of(unit_of(text)).values()] == [Held if holds else Unknown]


def test_claims_may_read_what_nothing_else_does() -> None:
    last = "        s    = norm(u)\n        last = prev(s, 1)\n        weight <-"
    text = RULE.replace("STEP", "u").replace("        weight <-", last).replace("CLAIM", "last >= 0 or s < last")
    (subject,) = subjects_of(unit_of(text))
    assert subject.rule is not None and [state.name for state in subject.rule.states] == ["m", "v"]
    assert [type(each) for each in verdicts_of(unit_of(text)).values()] == [Held]


def test_a_counterexample_is_as_small_as_can_be() -> None:
    found = verdict("abs(m) <= 1 or rows < 2 or t < 3", "o")
    assert isinstance(found, Refuted)
    values = dict(found.values)
    assert values["shape"] == "2 x 1" and values["grad 1"].count(",") == 1 and values["weight"] == "[[0], [0]]"
    assert values["hypers"] == "lr = 0.1, beta = 0.9"
    assert [values[f"grad {step}"] for step in range(1, 5)] == ["[[3], [0]]"] * 4 and values["step"] == "4"  # m = 1.03


# The published claims, and what is said falsely of published methods


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.opt")), ids=lambda path: path.stem)
def test_claims_of_shipped_specs_hold(path: Path) -> None:
    for claim, found in verdicts_of(check_file(path), examples=6).items():
        assert isinstance(found, Proved | Held), f"{claim}: {found}"


@pytest.mark.parametrize(
    "base, claim",
    [
        ("NorMuon", "orthogonal(d)"),
        ("NorMuon", "norm(d, per=row) == 0.2 * sqrt(cols)"),
        ("Muon", "dot(update, weight, per=row) == 0"),
        ("Muon", "spectral_norm(update) <= 1.2"),
        ("Muon", "orthogonal(update)"),
        ("Nora", "norm(d, per=row) == 1"),
        ("NAMO", "alpha >= 1e-3"),
        ("SophiaG", "abs(u) <= 0.99"),
    ],
)
def test_false_claims_about_published_methods_are_refuted_in_seconds(base: str, claim: str) -> None:
    role = "tensor" if base == "SophiaG" else "matrix"
    snapshot = unit_of(f"optimizer Wrong extends {base}:\n    for {role}:\n        claim {claim}\n")
    start = time.process_time()
    found = verdicts_of(snapshot, examples=200, only=claim)
    assert [type(each) for each in found.values()] == [Refuted]
    assert time.process_time() - start < 5


TANGENT = "dot(d, weight, per=row) == 0 or norm(weight, per=row) < 1e-10"
LENGTH = "0.2 * sqrt(rows * cols)"
STEEP = "coefficients=(3.4445, -4.5, 2.0315)"
FALLING = "value <= prev(value) or t < max(warmup, 1) + 1"

# A spec, a piece of it, what stands there instead, and the claim that this breaks.
MUTANTS = [
    ("nora", "project(away_from=weight, per=row) |> ", "", TANGENT),
    ("nora", "weight, per=row) |> rown", "weight, per=col) |> rown", TANGENT),
    ("nora", "|> rownorm", "|> colnorm", "norm(d, per=row) <= 1"),
    ("nora", "|> rownorm", "|> orthogonalize", "cost(rows * cols)"),
    ("namo", "bias * norm(m)", "1.000001 * bias * norm(m)", "alpha <= 1 or t > 1"),
    ("namo", "bias * norm(m)", "bias * norm(grad)", "alpha <= sqrt((1 - mu1) / (1 - mu2))"),
    ("namo", "/ (sqrt(v) + eps)", "", "scale_free(grad)"),
    ("namo_d", "mean(alpha) / c)", "mean(alpha) / c^2)", "max(s) * c^2 <= min(s)"),
    ("normuon", f"scale_to(u, {LENGTH})", f"1.000001 * scale_to(u, {LENGTH})", f"norm(d) == {LENGTH} or norm(u) == 0"),
    ("normuon", "mean(o^2, per=row)", "mean(o^2)", "state(rows * cols + rows)"),
    ("muon", "orthogonalize(m, steps)", "1.01 * orthogonalize(m, steps)", "spectral_norm(update) <= 1.2024"),
    ("muon", "orthogonalize(m, steps)", f"orthogonalize(m, steps, {STEEP})", "spectral_norm(update) <= 1.2024"),
    ("signsgd", "lr * u", "lr * (u + grad)", "scale_free(grad)"),
    ("uba", "(2 - phi)", "(1.999 - phi)", "value == 1 or t != warmup"),
    ("uba", "cos(pi *", "cos(3.1 *", "value == 0 or t < total"),
    ("uba", "cos(pi *", "cos(2 * pi *", FALLING),
]


@pytest.mark.parametrize("name, old, new, claim", MUTANTS)
def test_claims_of_broken_methods_are_refuted(name: str, old: str, new: str, claim: str) -> None:
    path = SPECS / f"{name}.opt"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    found = verdicts_of(unit_of(text.replace(old, new), path), examples=150, only=claim)
    assert [type(each) for each in found.values()] == [Refuted]


# The parts


def exponents(text: str) -> list[Any]:
    rule = RULE.replace("for matrix:\n", "for matrix:\n        dim r = 3\n")
    snapshot = unit_of(rule.replace("STEP", "u").replace("CLAIM", f"cost({text})"))
    (claim,) = [claim for subject in subjects_of(snapshot) for claim in subject.watched.claims]
    polynomial = polynomial_of(claim.promise)
    assert polynomial is not None
    return list(polynomial.terms)


@pytest.mark.parametrize(
    "found, claimed, direction",
    [
        ("rows * cols", "rows^2 + cols^2", None),
        ("rows * cols", "rows + cols", (1, 1)),
        ("rows * cols", "rows^2", (0, 1)),
        ("rows^2", "rows * cols", (1, 0)),
        ("min(rows, cols)^3", "rows * cols * min(rows, cols)", None),
        ("rows^2 * cols", "rows * cols * min(rows, cols)", (1, 0)),
        ("rows * cols^2", "rows^3 + cols^3", None),
        ("rows^2 * cols", "rows^3 + cols^2", (Fraction(2, 3), 1)),
        ("rows^3 * cols^2", "rows^4 + cols^4", (1, 1)),
        ("rows^2.5 * cols^0.5", "rows^3 + cols^2 * rows", None),
        ("rows^2.5 * cols^0.9", "rows^3 + rows * cols^3", (1, Fraction(2, 3))),
        ("rows", "1", (1, 1)),
    ],
)
def test_growth_is_decided_along_every_direction(found: str, claimed: str, direction: Any) -> None:
    known = None if direction is None else (*direction, 0)
    assert direction_of_excess(exponents(found), exponents(claimed), "") == known


@pytest.mark.parametrize(
    "found, claimed, orientation, direction",
    [
        ("rows^2", "rows * cols", "wide", None),
        ("rows^2", "rows * cols", "tall", (1, 0, 0)),
        ("cols^2", "rows * cols", "tall", None),
        ("rows * r", "rows * cols", "", None),
        ("rows * cols", "rows * r + cols * r", "", (1, 1, 0)),
        ("rows * r^2", "rows * r + rows^3", "wide", None),
        ("rows * r^2", "rows * r + rows^2", "wide", (1, 1, 1)),
        ("cols * r^2", "cols * r + cols^2", "", (1, 1, 1)),
        ("cols * r^2", "cols^2 * r", "", None),
    ],
)
def test_growth_of_ranks_and_of_what_is_seen_as_wide(
    found: str, claimed: str, orientation: str, direction: Any
) -> None:
    excess = direction_of_excess(exponents(found), exponents(claimed), orientation)
    assert (excess is None) == (direction is None), excess
    if excess is not None:  # it is one in which the claim is outgrown
        one, other = (max(exponent_along(t, excess) for t in exponents(text)) for text in (found, claimed))
        assert one > other


def test_every_operator_on_whole_matrices_says_its_cost() -> None:
    assert [row.name for row in ROWS if row.needs_matrix and row.cost is once_per_result] == []


@pytest.mark.parametrize("name", STREAMS)
def test_streams_have_a_gradient_for_each_step(name: str) -> None:
    grads = STREAMS[name](np.random.default_rng(0), (2, 3), 4)
    assert [grad.shape for grad in grads] == [(2, 3)] * 4
    assert all(np.isfinite(grad).all() and grad.dtype == np.float64 for grad in grads)


class Broken(torch.optim.Optimizer):
    """An optimizer that keeps none of what every generated one must keep."""

    def __init__(self, params: Any, **hypers: Any) -> None:
        super().__init__(params, hypers)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        everyone = [p for group in self.param_groups for p in group["params"]]
        for place, p in enumerate(everyone, start=1):
            p -= place * len(everyone) * p.grad * (1.0 if p.grad.grad_fn is None and p.grad._version == 0 else 2.0)
            p.grad += 1


class Plain(torch.optim.SGD):
    """torch's own, which keeps all of it."""

    def __init__(self, params: Any, **hypers: Any) -> None:
        super().__init__([{"params": group["params"]} for group in params], lr=0.1)


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_every_class_must_keep_is_noticed(name: str) -> None:
    (declaration,) = check_file(SPECS / "sgd.opt").require().declarations
    assert isinstance(declaration, ir.Optimizer)
    assert decide_property(PROPERTIES[name], Plain, declaration, Budget(20)) == Held(1)
    assert isinstance(decide_property(PROPERTIES[name], Broken, declaration, Budget(20)), Refuted)


# The command

COMMAND = """
optimizer Signs:
    hyper lr = 0.1 where lr >= 0

    for tensor:
        u = sign(grad)
        weight <- weight - lr * u

        claim u * u == 1
        claim abs(u) <= 1
        claim state(0)
"""

TOLD = """\
signs.opt:9:9  claim u * u == 1                                                       refuted
    in        Signs
    hypers    lr = 0.1
    shape     1 x 1
    weight    [[0]]
    began as  sparse rows
    grad 1    [[0]]
    step      1
    u * u     0
signs.opt:10:9  claim abs(u) <= 1                                                     tested (40 cases)
signs.opt:11:9  claim state(0)                                                        proved (nothing is kept)
signs.opt:2:11  gradients are not written to                                          tested (2 cases)
signs.opt:2:11  steps do not depend on the order of parameters                        tested (2 cases)
signs.opt:2:11  two half gradients are one gradient                                   tested (2 cases)
signs.opt:2:11  a parameter alone steps as among others                               tested (2 cases)
"""


@pytest.fixture
def signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("signs.opt").write_text(COMMAND)
    return "signs.opt"


def test_the_command_says_what_it_found(signs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", signs, "--examples", "40"]) == 1
    assert capsys.readouterr().out == TOLD
    Path(signs).write_text(COMMAND.replace("u * u == 1", "u * u <= 1"))
    assert main(["verify", signs, "--examples", "40", "--claims-only", "--seed", "3"]) == 0
    assert "refuted" not in capsys.readouterr().out


def test_the_command_speaks_json(signs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", signs, "--examples", "40", "--claims-only", "--json"]) == 1
    first, second, third = json.loads(capsys.readouterr().out)
    assert (first["verdict"], first["line"], first["values"]["grad 1"]) == ("refuted", 9, "[[0]]")
    assert (second["verdict"], second["cases"]) == ("tested", 40)
    assert (third["verdict"], third["claim"]) == ("proved", "claim state(0)")


def test_claims_alone_need_no_torch(signs: str) -> None:
    program = (
        "import sys\nfrom optforge.compiler.commands.cli import main\n"
        f"assert main(['verify', '--claims-only', {signs!r}]) == 1\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_refuses_what_cannot_be(signs: str) -> None:
    assert main(["verify", signs, "--examples", "0"]) == 2
    Path(signs).write_text("optimizer Signs:\n")
    assert main(["verify", signs]) == 1


def test_powers_are_written_as_specs_write_them() -> None:
    """`n^3/2` would be half of n^3."""
    assert [power_text("n", Fraction(*each)) for each in ((2, 1), (3, 2), (-1, 1), (0, 1))] == [
        "n^2", "n^(3/2)", "n^(-1)", "n^0",
    ]  # fmt: skip
