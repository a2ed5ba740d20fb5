"""`optforge fuzz`: right optimizers match their specs, wrong ones are found, shrunk, and shown by a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from optforge.compiler.commands.cli import main
from optforge.compiler.verify.differential.corpus import corpus_of
from optforge.compiler.verify.differential.plan import Gradient, Group, Scenario, Step, read_scenario, scenario_text
from optforge.compiler.verify.differential.script import script
from optforge.compiler.verify.differential.search import Mismatch, draw_scenarios, search
from optforge.compiler.verify.differential.setup import NameProblem, Options, Setup, set_up
from optforge.compiler.verify.differential.side_by_side import run_both
from optforge.compiler.verify.shared.budget import SearchBudget
from optforge.testing import assert_matches
from tests.verify import wrong_adamw
from tests.verify.wrong_adamw import MyAdamW

pytest_plugins = ("pytester",)
ROOT = Path(__file__).parents[2]
PATIENCE = 4.0

# What is wrong, what the difference is called, and how many steps and parameters it takes to see it.
WRONG = {
    "DecaysAfter": ("weights", 1, 1),
    "EpsInsideRoot": ("weights", 1, 1),
    "NoCorrection": ("weights", 1, 1),
    "ForgetsState": ("weights", 2, 1),
    "ChangesGradient": ("gradient", 1, 1),
    "KeepsFirstRate": ("weights", 2, 1),
    "DependsOnOrder": ("weights", 1, 2),
}


def set_up_against(name: str, **options: object) -> Setup:
    return set_up("AdamW", getattr(wrong_adamw, name), Options(**options), f"tests.verify.wrong_adamw:{name}")


@cache
def found(name: str) -> tuple[Setup, Mismatch]:
    """What is wrong with an optimizer, shrunk."""
    opened = set_up_against(name)
    finding = search(opened.pair, opened.space, SearchBudget(patience=PATIENCE)).finding
    assert finding is not None, f"{name} was not found"
    return opened, finding


# Runs the scripts given as arguments; a line of JSON with what each of them ends with.
RUNNER = """
import json, runpy, sys

ends = {}
for path in sys.argv[1:]:
    try:
        runpy.run_path(path)
        ends[path] = ""
    except SystemExit as end:
        ends[path] = str(end.code)
print(json.dumps(ends))
"""


def run_scripts(texts: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What each script says when it ends, "" if nothing is different, in one process that knows no more than they."""
    paths = {name: folder / f"{name}.py" for name in texts}
    for name, path in paths.items():
        path.write_text(texts[name], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUNNER, *map(str, paths.values())]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    return {name: ends[str(path)] for name, path in paths.items()}


# -- what is right -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [torch.optim.AdamW, MyAdamW], ids=["torch", "handwritten"])
def test_a_right_optimizer_matches(factory, tmp_path):
    assert_matches("AdamW", factory, examples=60, corpus=tmp_path)


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_found_and_shrunk(name):
    what, steps, parameters = WRONG[name]
    _, finding = found(name)
    assert finding.difference.what == what
    assert finding.difference.step == len(finding.scenario.steps) == steps
    assert len(finding.scenario.shapes) == parameters


@pytest.mark.wide  # starts Python anew
def test_scripts_reproduce_what_was_found(tmp_path):
    """And the same scripts find nothing in an optimizer that is right: they do not fail for another reason."""
    texts = {name: script(*found(name)) for name in WRONG}
    right = {
        f"{name}_put_right": text.replace(f"import {name} as", "import MyAdamW as") for name, text in texts.items()
    }
    ends = run_scripts(texts | right, tmp_path)
    for name in WRONG:
        assert ends[name].startswith(f"step {found(name)[1].difference.step}"), name
        assert ends[f"{name}_put_right"] == "", name


@pytest.mark.wide  # starts Python anew
def test_the_script_does_all_that_a_scenario_can_ask(tmp_path):
    """Each right step of each kind, in one script: it must run, and agree with what is found side by side."""
    kinds = ("normal", "zero", "missing", "repeated", "opposite", "one_row", "rank_one", "strided")
    hypers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
    groups = (Group(((2, 3), (2, 3)), hypers), Group(((4,),), {**hypers, "lr": 0.5}, "tiny"))
    steps = [
        Step(
            tuple(Gradient(kind, exponent) for exponent in (0, 3, -4)),
            ({"lr": 0.2}, {"beta1": 0.5}) if number else (),
            saved=number % 3 == 2,
            closure=number % 2 == 1,
        )
        for number, kind in enumerate(kinds)
    ]
    scenario = Scenario(groups, tuple(steps), order=((1, 0), (0,)))
    right, wrong = set_up_against("MyAdamW"), set_up_against("DecaysAfter")
    assert run_both(right.pair, scenario) is None
    difference = run_both(wrong.pair, scenario)
    assert difference is not None
    finding = Mismatch(scenario, replace(difference, step=len(steps)))
    ends = run_scripts({"right": script(right, finding), "wrong": script(wrong, finding)}, tmp_path)
    assert ends["right"] == ""
    assert ends["wrong"].startswith(f"step {len(steps)}")


def test_the_first_stream_that_differs_is_named():
    class SlowAverage(MyAdamW):
        def advance(self, p, g, state, group, index):
            super().advance(p, g, state, group, index)
            state["v"].mul_(1.01)

    opened = set_up("AdamW", SlowAverage, Options())
    finding = search(opened.pair, opened.space, SearchBudget(patience=PATIENCE)).finding
    assert finding is not None and finding.difference.state is not None
    assert finding.difference.state.name == "v"
    assert "`v`" in str(finding.difference)
    assert "class SlowAverage" in script(opened, finding)


# -- the corpus, the command, the fixture ------------------------------------------------------------------------------


def test_past_failures_are_tried_first(tmp_path):
    opened, finding = found("ForgetsState")
    corpus = corpus_of(opened.source.text, opened.target, tmp_path)
    assert list(corpus.scenarios()) == []
    corpus.keep(finding.scenario)
    (corpus.folder / "broken.json").write_text("{}", encoding="utf-8")
    again = search(opened.pair, opened.space, SearchBudget(examples=1, seed=99), corpus.scenarios())
    assert (again.tried, again.finding) == (1, finding)
    right = set_up_against("MyAdamW")
    assert search(right.pair, right.space, SearchBudget(examples=1), corpus.scenarios()).finding is None


def test_the_command_prints_a_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fuzz", "AdamW", "--against", "tests.verify.wrong_adamw:NoCorrection", "--seed", "1", "--groups", "1"]
    assert main([*command, "--fix", "weight_decay=0", "--dtypes", "float64"]) == 1
    shown = capsys.readouterr()
    assert "beta1 is betas[0]" in shown.err
    assert "'weight_decay': 0" in shown.out or '"weight_decay": 0' in shown.out
    compile(shown.out, "script", "exec")
    assert list(tmp_path.glob(".optforge/corpus/*/*.json"))
    assert main(["fuzz", "AdamW", "--against", "torch.optim:AdamW", "--examples", "3"]) == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--against", "tests.verify.wrong_adamw"], "not of the form MODULE:CLASS"),
        (["--against", "tests.verify.wrong_adamw:Nothing"], "cannot load"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--map", "beta3=betas"], "no hyper `beta3`"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--map", "eps=epsilon"], "no argument `epsilon`"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--fix", "beta1=1"], "break a condition"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--fix", "beta3=1"], "no hyper `beta3`"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--seconds", "0"], "no scenario was tried"),
        (["--against", "tests.verify.wrong_adamw:__doc__"], "is no class, but a value of type str"),
        (["--against", "broken_module:MyAdamW"], "cannot load broken_module:MyAdamW: ValueError: no"),
        (["--against", "tests.verify.wrong_adamw:MyAdamW", "--without", "sleep"], "no ability `sleep`"),
    ],
)
def test_a_wrong_command_line_gets_a_message(arguments, words, capsys, monkeypatch, tmp_path):
    (tmp_path / "broken_module.py").write_text("raise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fuzz", "AdamW", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--examples=0", "--groups=0", "--seconds=nan", "--tolerance=nan", "--tolerance=inf"]
)
def test_a_search_that_could_find_nothing_is_refused(option, capsys):
    with pytest.raises(SystemExit) as refusal:
        main(["fuzz", "AdamW", "--against", "torch.optim:AdamW", option])
    assert refusal.value.code == 2 and f"{option.partition('=')[0]}: invalid" in capsys.readouterr().err


@pytest.mark.wide  # starts Python anew
def test_the_fixture_keeps_failures_in_the_cache(pytester, monkeypatch):
    pytester.makepyfile(
        """
        from tests.verify.wrong_adamw import MyAdamW, NoCorrection

        def test_right(assert_matches):
            assert_matches("AdamW", MyAdamW, examples=5)

        def test_wrong(assert_matches):
            assert_matches("AdamW", NoCorrection, examples=50, patience=1)
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = pytester.runpytest_subprocess("-p", "optforge.pytest_plugin")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Written by `optforge fuzz`*"])
    assert list(pytester.path.glob(".pytest_cache/d/optforge-corpus/*/*.json"))


# -- scenarios ---------------------------------------------------------------------------------------------------------


def test_scenarios_keep_the_conditions_and_survive_json():
    space = set_up("NAMO", lambda params, lr, mu1, mu2, eps, weight_decay: None, Options()).space

    for scenario in draw_scenarios(space, SearchBudget(examples=100)):
        for group in scenario.groups:
            assert space.values.holds(group.hypers)
        assert read_scenario(scenario_text(scenario)) == scenario
    values = space.values.by_name
    assert values["mu1"][0] == 0.95 and {0.0, 0.5} <= set(values["mu1"])
    assert 0.0 not in values["eps"], "eps > 0"


def test_equal_seeds_draw_equal_scenarios_of_every_kind():
    space = set_up_against("MyAdamW").space
    found = list(draw_scenarios(space, SearchBudget(examples=100)))
    assert found == list(draw_scenarios(space, SearchBudget(examples=100)))
    assert found != list(draw_scenarios(space, SearchBudget(examples=100, seed=1)))
    kinds = {gradient.kind for each in found for step in each.steps for gradient in step.gradients}
    assert kinds == {
        "normal",
        "zero",
        "missing",
        "repeated",
        "opposite",
        "one_row",
        "rank_one",
        "strided",
        "inf",
        "nan",
    }
    assert {each.dtype for each in found} == {"float64", "float32"}
    steps = [step for each in found for step in each.steps]
    assert any(s.saved for s in steps) and any(s.closure for s in steps) and any(any(s.changes) for s in steps)
    assert any(len(set(each.shapes)) < len(each.shapes) for each in found)
    assert any(tuple(sorted(order)) != order for each in found for order in each.order)


def test_what_the_other_does_not_claim_is_not_asked_of_it():
    left_out = ("missing", "strided", "inf", "nan", "closure", "saved", "order", "groups", "lr_changes", "changes")
    for each in draw_scenarios(set_up_against("MyAdamW", without=left_out).space, SearchBudget(examples=50)):
        assert len(each.groups) == 1
        for step in each.steps:
            assert not (step.saved or step.closure or any(step.changes))
            assert not {gradient.kind for gradient in step.gradients} & set(left_out)
    opened = set_up_against("ChangesGradient", without=("kept_gradients",))
    assert search(opened.pair, opened.space, SearchBudget(examples=20)).finding is None


def test_a_hyper_that_stands_nowhere_is_an_error():
    with pytest.raises(NameProblem, match="has no item 2"):
        set_up("AdamW", MyAdamW, Options(names={"beta1": "betas[2]"}))
