"""Random programs: every way to run them agrees, and a way that is broken on purpose is found out.

The ways: printed and read back, after each pass in the interpreter, generated with and without writing in place, and as
graphs, recorded and compiled.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from optforge.compiler.analysis import scalar_facts
from optforge.compiler.driver import check_source, map_functions, run_passes
from optforge.compiler.ir import intervals
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.operators import OPERATORS, Level, Pattern
from optforge.compiler.ir.shards import Owned
from optforge.compiler.ir.verifier import functions_of
from optforge.compiler.passes import careful, fold, sink_into_branches
from optforge.compiler.passes.careful import with_care
from optforge.compiler.passes.shard_stages import shard_stages
from optforge.compiler.targets.torch import expressions
from optforge.compiler.targets.torch.passes import idioms, in_place
from optforge.compiler.targets.torch.render import render_program
from optforge.compiler.targets.torch.statements import Lowering
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl import ast, precedence
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source
from optforge.runtime.execution import computations, graphs
from tests.support.spec_files import shipped_with_classes
from tools.programs import differential
from tools.programs.__main__ import main
from tools.programs.differential import (
    Disagreement,
    Shares,
    compile_everywhere,
    examine,
    require_printed,
)
from tools.programs.programs import RandomProgram, Trial, random_programs
from tools.programs.search import examine_random

SLICES, PER_SLICE = 20, 102


@pytest.mark.parametrize("number", range(SLICES))
def test_all_ways_agree(number: int) -> None:
    for index in range(PER_SLICE):
        examine_random(number, index)
    differential.forget_modules()


# What the programs are made of


def nodes(tree: object) -> Iterator[ast.Node]:
    """Every node of a surface tree."""
    if isinstance(tree, ast.Node):
        yield tree
        for each in fields(tree):
            yield from nodes(getattr(tree, each.name))
    elif isinstance(tree, tuple):
        for item in tree:
            yield from nodes(item)


def applied_operators(program: ir.Program) -> Iterator[str]:
    for function in functions_of(program):
        for value in (*(e.value for e in function.equations), *(o.value for o in function.outputs)):
            yield from (node.operator for node in ir.walk(value) if isinstance(node, ir.Apply))


def sources_of_one_name(program: ir.Program) -> Iterator[tuple[str, ...]]:
    """Where inputs of one name come from, for each function and name with several."""
    for function in functions_of(program):
        sources: dict[str, set[str]] = {}
        for node in inputs_of(function):
            sources.setdefault(node.name, set()).add(node.source.value)
        yield from (tuple(sorted(each)) for each in sources.values() if len(each) > 1)


def calls_of_owners(program: ir.Program) -> Iterator[str]:
    """What steps on shards are written with, for each function that an owner computes."""
    rules = [rule for each in program.declarations if isinstance(each, ir.Optimizer) for rule in each.rules]
    requests = [request for rule in rules for stage in shard_stages(rule.update) for request in stage.requests]
    yield from ("whole" for request in requests if isinstance(request, Owned))


def test_everything_occurs() -> None:
    """Every operator, those that only passes write among them, every kind of declaration and statement, and functions
    that read two inputs of one name."""
    found: Counter[object] = Counter()
    surface = {"Delegate", "Event", "Penalty", "Schedule", "Function", "Member", "Pipe", "Select", "Tuple", "super"}
    prelude = {"ema", "debias", "momentum", "heavy_ball", "rownorm", "colnorm", "project", "rms", "match_norm",
               "clip_norm", "trust_ratio", "cautious", "lower", "upper", "diagonal", "identity", "prev"}  # fmt: skip
    confusing = {("hyper", "state"), ("argument", "hyper")}
    wanted = set(OPERATORS) | surface | prelude | confusing | {"wide", "tall", "shared", "Dimension", "Wrapper"}
    wanted |= {"Repetition", "direction", "given", "eval", "shaped"}

    for program in random_programs(4, 400):
        if wanted <= set(found):
            return
        checked = check_source(Source("random.opt", program.text)).require()
        compiled = run_passes(checked, TORCH.rewrites)
        found.update(applied_operators(checked))
        found.update(applied_operators(map_functions(with_care, compiled)))
        found.update(sources_of_one_name(compiled))
        found.update(calls_of_owners(compiled))
        for node in nodes(program.tree):
            found[type(node).__name__] += 1
            if isinstance(node, ast.Call):
                found[node.function.name] += 1
                found["given"] += node.function.name == "step" and bool(node.keywords)
            if isinstance(node, ast.Identifier) and node.name in ("direction", "eval"):
                found[node.name] += 1
            if isinstance(node, ast.Parameter) and node.shape:
                found["shaped"] += 1
            if isinstance(node, ast.Name) and node.name == "super":
                found["super"] += 1
            if isinstance(node, ast.Binding) and node.shared:
                found["shared"] += 1
            if isinstance(node, ast.Rule) and node.orientation:
                found[node.orientation.name] += 1
    raise AssertionError(f"none of the programs has {wanted - set(found)}")


def test_rendered_modules_are_formatted(tmp_path: Path) -> None:
    """What is rendered passes the formatter and the linter as it is."""
    texts: list[str] = []

    def render(program: RandomProgram) -> None:
        texts.append(compile_everywhere(require_printed(program, program.text), program.text).rendered)

    for path in sorted(SAVED.glob("*.opt")):
        render(program_of(path.read_text(encoding="utf-8")))
    for program in random_programs(5, 60):
        render(program)
    for number, text in enumerate(texts):
        (tmp_path / f"random_{number}.py").write_text(text, encoding="utf-8")
    settings = str(Path(__file__).parents[2] / "pyproject.toml")
    for command in (["format", "--check", "--diff"], ["check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", settings, str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr


def test_the_command_counts_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "2", "--seed", "3"]) == 0
    assert "all ways agree" in capsys.readouterr().out


# Breaking a way on purpose


NO_GRAPHS, EVERY_GRAPH = Shares(0, 0), Shares(recorded=1, rewritten=1)


def first_disagreement(count: int = 240, shares: Shares = NO_GRAPHS) -> str | None:
    """The way that differs in the first random program in which any does."""
    for program in random_programs(6, count):
        try:
            examine(program, shares)
        except Disagreement as disagreement:
            return disagreement.way
    return None


def change_row(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    assert isinstance(OPERATORS, dict)
    monkeypatch.setitem(OPERATORS, name, replace(OPERATORS[name], **changes))


def subtract_by_adding(monkeypatch: pytest.MonkeyPatch) -> None:
    change_row(monkeypatch, "sub", in_place=Pattern("{0:postfix}.add_({1})"))


def always_overwrite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place.Plan, "is_free", lambda self, name, index: True)


def overwrite_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    is_free = in_place.Plan.is_free

    def generous(self: in_place.Plan, name: in_place.Storage, index: int) -> bool:
        return is_free(self, name, index) or (name == ir.GRAD and self.last_read[name] <= index)

    monkeypatch.setattr(in_place.Plan, "is_free", generous)


def swap_lerp(monkeypatch: pytest.MonkeyPatch) -> None:
    change_row(monkeypatch, "lerp", torch={"*": Pattern("{1:postfix}.lerp({0}, {2})")})


def average_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idioms, "complementary", lambda decay, share: True)


def guard_by_one_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_into_branches, "shared_context", lambda contexts: max(contexts, key=len))


def take_python_for_ieee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, "is_plain", lambda node, facts: True)


def count_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(scalar_facts.INPUTS, dict)
    monkeypatch.setitem(scalar_facts.INPUTS, ir.InputSource.STEP, replace(intervals.COUNT, low=2.0))


def take_every_literal_for_neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "is_literal", lambda expr, value: isinstance(expr, ir.Literal))


def confuse_rows_with_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(expressions.AXES, "row", "-2")


def forget_initial_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_initial(program: ir.Program, origin: str) -> str:
        changed = tuple(
            replace(each, rules=tuple(replace(rule, initial=None) for rule in each.rules))
            if isinstance(each, ir.Optimizer)
            else each
            for each in program.declarations
        )
        return render_program(replace(program, declarations=changed), origin)

    monkeypatch.setattr(differential, "render_program", without_initial)


def print_without_parentheses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precedence.INFIX, "-", precedence.INFIX["*"])


@pytest.mark.parametrize(
    ("break_it", "ways"),
    [
        (subtract_by_adding, {"in place"}),
        (always_overwrite, {"in place", "gradient untouched", "no crash"}),
        (overwrite_the_gradient, {"gradient untouched", "in place"}),
        (swap_lerp, {"generated module", "in place"}),
        (average_what_is_none, {"pass idioms"}),
        (guard_by_one_use, {"no crash", "generated module"}),
        (take_python_for_ieee, {"no crash", "generated module"}),
        (count_from_two, {"no crash", "generated module"}),
        (take_every_literal_for_neutral, {"pass fold"}),
        (confuse_rows_with_columns, {"no crash", "generated module", "generated penalty"}),
        (forget_initial_values, {"generated module"}),
        (print_without_parentheses, {"printer"}),
    ],
)
def test_what_is_broken_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], ways: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert first_disagreement() in ways


def leave_fences_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_fence", lambda module: module)


def copy_nothing_that_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computations, "_copy_aliases", lambda names, values, given: list(values))
    monkeypatch.setattr(Lowering, "_returned", lambda self, output: self.writer.text(output.value))


@pytest.mark.parametrize(
    ("break_it", "is_probed"), [(leave_fences_out, True), (leave_fences_out, False), (copy_nothing_that_is_lent, False)]
)
def test_states_that_hand_on_old_values_are_drawn(
    break_it: Callable[[pytest.MonkeyPatch], None], is_probed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What inductor makes of them is found to be wrong, by the probe of the graph or, without it, by the steps."""
    break_it(monkeypatch)
    if not is_probed:
        monkeypatch.setattr(graphs.Graph, "probe", lambda self, stored, scalars: None)
    assert first_disagreement(shares=EVERY_GRAPH) in ("graph", "generated module")


def test_a_counterexample_is_a_small_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is shrunk, and printed so that it can be saved and checked."""
    subtract_by_adding(monkeypatch)
    with pytest.raises(Disagreement) as caught:
        for index in range(60):
            examine_random(6, index)
    text = caught.value.text
    assert len(text.splitlines()) <= 6
    assert check_source(Source("saved.opt", text)).program is not None
    assert caught.value.way == "in place" and "weight" in caught.value.detail and text in str(caught.value)


def test_the_command_prints_a_counterexample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subtract_by_adding(monkeypatch)
    assert main(["--seed", "6"]) == 1
    shown = capsys.readouterr().err
    _, text = shown.split("# Save this as a spec:")
    assert "in place: " in shown and check_source(Source("saved.opt", text.strip() + "\n")).program is not None


def test_shrinking_ends_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    subtract_by_adding(monkeypatch)
    with pytest.raises(Disagreement, match="in place"):
        for index in range(60):
            examine_random(6, index, patience=0)


# Programs in which ways once differed

SAVED = Path(__file__).parents[1] / "cases" / "programs"


def program_of(text: str) -> RandomProgram:
    """A program of which every declaration is run with its defaults."""
    tree, problems = parse_source(Source("case.opt", text))
    assert tree is not None, problems
    kinds = {ast.Optimizer: "optimizer", ast.Schedule: "schedule", ast.Penalty: "penalty"}
    trials = [Trial(item.name.name, kinds[type(item)], ({},)) for item in tree.items if type(item) in kinds]
    return RandomProgram(tree, tuple(trials), 0)


def test_lent_buffers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the generated function and the runtime copy what another output would overwrite."""
    program = program_of((SAVED / "delayed_streams.opt").read_text(encoding="utf-8"))
    examine(program)
    monkeypatch.setattr(Lowering, "_returned", lambda self, output: self.writer.text(output.value))
    monkeypatch.setattr(computations, "_copy_aliases", lambda names, values, given: list(values))
    with pytest.raises(Disagreement, match="state"):
        examine(program)


def test_what_is_read_after_it_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of((SAVED / "early_writes.opt").read_text(encoding="utf-8"))
    examine(program)
    change_row(monkeypatch, "accumulate", writes_early=False)
    with pytest.raises(Disagreement, match="in place"):
        examine(program)


def read_inputs_by_name_alone(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """Of two inputs of one name the generated text reads one for both."""
    written = expressions.Writer._written

    def confused(self: expressions.Writer, expr: ir.Expr) -> tuple[str, Level]:
        if not isinstance(expr, ir.Input):
            return written(self, expr)
        texts = [text for key, text in self.names.items() if isinstance(key, tuple) and key[1] == expr.name]
        return texts[0 if first else -1], Level.POSTFIX

    monkeypatch.setattr(expressions.Writer, "_written", confused)


@pytest.mark.parametrize("first", [True, False])
def test_inputs_of_one_name_that_are_confused_are_found(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    program = program_of((SAVED / "names.opt").read_text(encoding="utf-8"))
    examine(program)
    read_inputs_by_name_alone(monkeypatch, first)
    with pytest.raises(Disagreement, match=r"generated module|no crash"):
        examine(program)


@pytest.mark.wide
@pytest.mark.parametrize("first", [True, False])
def test_random_programs_find_inputs_that_are_confused(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    read_inputs_by_name_alone(monkeypatch, first)
    assert first_disagreement(400) in {"generated module", "no crash"}


@pytest.mark.parametrize("path", sorted(SAVED.glob("*.opt")), ids=lambda path: path.stem)
def test_ways_that_once_differed(path: Path) -> None:
    """Counterexamples that were found are saved there and stay."""
    for number in range(3):
        shares = NO_GRAPHS if number else EVERY_GRAPH
        examine(replace(program_of(path.read_text(encoding="utf-8")), seed=number), shares)


# Their first bases and roots are of gradients with null spaces, of which eigenvectors are any basis: no two ways need
# agree.
UNDETERMINED = {
    *("soap", "soap_muon", "pinned_soap_muon", "row_floor_soap_muon", "trust_soap_muon", "shampoo_quarter"),
    *("record44", "record45", "record46"),
}
# What runs always: the methods that the project began with. All others meet references in test_agreement.
ALWAYS = {"adamw", "sgd", "muon", "namo", "namo_d", "nora", "normuon", "sophia_g", "asgd"}
SHIPPED = [
    pytest.param(path, id=path.stem, marks=() if path.stem in ALWAYS else pytest.mark.wide)
    for path in shipped_with_classes()
    if path.stem not in UNDETERMINED
]


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_specs(path: Path) -> None:
    """The shipped specs are run like random programs, as far as they need no hypers."""
    program = program_of(path.read_text(encoding="utf-8"))
    declared = {each.name: each for each in check_source(Source(path.name, program.text)).require().declarations}
    ready = [t for t in program.trials if all(hyper.default is not None for hyper in declared[t.name].hypers)]
    examine(replace(program, trials=tuple(ready)))
