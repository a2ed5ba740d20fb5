"""The mutation campaign itself: mistakes of every kind are made, and judged by what they do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optforge.compiler.frontend.files import SPECS
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolve import resolve_file
from optforge.compiler.frontend.resolved import RawProgram
from optforge.compiler.verify.shared.budget import SearchBudget
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source
from tools.mutants import __main__ as mutants
from tools.mutants.counterparts import TORCH
from tools.mutants.program_mutations import check, program_mutants
from tools.mutants.source_mutations import load_module, source_mutants
from tools.mutants.table import table

SPEC = """
optimizer Small:
    hyper lr           = 0.1
    hyper beta         = 0.9
    hyper weight_decay = 0.1

    for matrix:
        m = beta * prev(m) + (1 - beta) * grad
        s = sqrt(max(mean(m^2, per=row), 0.01)) if t > 2 else 1
        d = orthogonalize(m, 3) * (rows / cols)
        weight <- (1 - lr * weight_decay) * weight - lr * (d / s + weight_decay * weight)
"""

# A mistake of each kind that `mutations.py` makes, as it is called in the table.
KINDS = (
    "matrix.m: 1 -> 1.1",
    "matrix.m: 1 -> -1.0",
    "matrix.m: beta -> weight_decay",
    "matrix.m: beta * prev(m, 0) + (1 - beta) * grad -> beta * prev(m, 0) - (1 - beta) * grad",
    "matrix.m: beta * prev(m, 0) + (1 - beta) * grad -> (1 - beta) * prev(m, 0) + beta * grad",
    "matrix.m: beta * prev(m, 0) + (1 - beta) * grad -> beta * prev(m, 0)",
    "matrix.m: 1 - beta -> beta - 1",
    "matrix.m: prev(m, 0) -> prev(m, 1.0)",
    "matrix.s: mean(m^2, per=row) -> mean(m^2)",
    "matrix.s: mean(m^2, per=row) -> sum(m^2, per=row)",
    "matrix.s: t -> t + 1.0",
    "matrix.s: t > 2 -> t >= 2",
    "matrix.s: m -> prev(m, 0.0)",
    "matrix.d: orthogonalize(m, steps=3) -> orthogonalize(m, steps=4.0)",
    "matrix.d: orthogonalize(m, steps=3) -> m",
    "matrix.d: rows -> cols",
)


def raw(text: str) -> RawProgram:
    file, problems = parse_source(Source("small.opt", text))
    assert file is not None, problems
    return resolve_file(file, SPECS, Report())


def test_every_kind_of_mistake_is_made():
    found = list(program_mutants(raw(SPEC), "Small"))
    labels = [f"{mutant.place}: {mutant.change}" for mutant in found]
    assert not set(KINDS) - set(labels)
    assert any("-> (1 - lr * weight_decay) * (wei" in label for label in labels), "decay after the update"
    assert any("max(mean" in label and "-> min(mean" in label for label in labels)
    assert any(label.startswith("matrix.s: sqrt(max(") and "-> max(" in label for label in labels)
    assert len({repr(mutant.program) for mutant in found}) > 0.9 * len(found)


def test_what_a_mistake_makes_of_shapes_is_for_the_type_checker():
    found = {f"{m.place}: {m.change}": m.program for m in program_mutants(raw(SPEC), "Small")}
    assert check(found["matrix.s: mean(m^2, per=row) -> mean(m^2, per=col)"]) is not None
    gram = SPEC.replace("orthogonalize(m, 3)", "m @ (m' @ m)")
    products = {m.change: m.program for m in program_mutants(raw(gram), "Small")}
    assert check(products["m' @ m -> m @ m'"]) is None


SOURCE = """
import torch

class Mine:
    def __init__(self, lr=0.5):
        self.lr = 1 + lr

    def step(self, p, g, v, t):
        v.mul_(0.9).add_(g * g)
        p -= self.lr * g / v.sqrt() if t > 1 else -g
"""


def test_sources_are_changed_where_steps_are_computed():
    found = dict(source_mutants(SOURCE))
    for change in ("0.9 -> 0.99", "v.sqrt() -> v", "t > 1 -> t <= 1", "g * g -> g / g", "-g -> g"):
        assert any(change in label for label in found), change
    assert any(label.endswith("-> (nothing)") for label in found)
    for text in found.values():
        assert "self.lr = 1 + lr" in text
        assert load_module(text, "mutant").Mine(0.25).lr == 1.25
    assert len(set(found.values())) == len(found)


@pytest.fixture(scope="module")
def baseline():
    return mutants.find_baseline("Adagrad", TORCH["Adagrad"], SearchBudget(examples=20))


def test_mutants_get_the_fate_they_deserve(baseline):
    source, folder = mutants.read_spec("Adagrad")
    file, _ = parse_source(source)
    original = resolve_file(file, folder, Report())
    normal = mutants.normal_form(baseline.setup.pair.declaration)
    assert mutants.spec_fate(baseline, original, {normal}) == ("equivalent", 0)
    assert mutants.spec_fate(baseline, original, set()) == ("survived", len(baseline.scenarios))
    fates = {v.label: v.fate for v in mutants.spec_verdicts(baseline, {}, most=12)}
    assert len(fates) == 12
    assert "killed" in fates.values() and "survived" not in fates.values()
    no_scenarios = replace(baseline, scenarios=())
    assert "killed" not in {v.fate for v in mutants.spec_verdicts(no_scenarios, {}, most=12)}


def test_results_are_kept_and_go_on(baseline, tmp_path):
    ledger = mutants.Ledger(tmp_path / "mutants.jsonl")
    first = list(mutants.spec_verdicts(baseline, {}, most=3))
    for verdict in first:
        ledger.add("key", verdict)
    again = mutants.Ledger(tmp_path / "mutants.jsonl")
    assert list(again.known["key"].values()) == first
    idle = replace(baseline, scenarios=())
    assert list(mutants.spec_verdicts(idle, again.known["key"], most=3)) == first


def test_the_table_counts():
    fates = ["killed"] * 98 + ["survived", "survived", "equivalent", "ill-typed", "repeated", "broken"]
    verdicts = [mutants.Verdict("X", "spec", f"m{n}", fate, 1) for n, fate in enumerate(fates)]
    text = table(verdicts, {"X spec": {"m98": "it multiplies zero"}})
    assert "| X | spec | 101 | 1 | 1 | 98 | 1 | 99.0 % |" in text
    assert "- X spec, `m98`: it multiplies zero" in text
    assert "- X spec, `m99`" in text.partition("## Survived")[2]


def test_reasons_are_given_for_mutants_that_exist():
    """Each entry names an optimizer, a side and a place; a spec that changes makes its reasons stale."""
    path = Path(__file__).parents[2] / mutants.LISTED
    for place, reasons in json.loads(path.read_text(encoding="utf-8")).items():
        name, side = place.split()
        assert all(reason for reason in reasons.values())
        if side == "spec":
            source, folder = mutants.read_spec(name)
            file, _ = parse_source(source)
            found = [(f"{m.place}: {m.change}", m) for m in program_mutants(resolve_file(file, folder, Report()), name)]
            assert not set(reasons) - {label for label, _ in mutants.number_labels(iter(found))}, place
