"""Steps on shards mean what the step means: of each operator, of every shipped rule and of random ones.

All in the oracle, so that what differs is the compiler's. There are up to four ranks, some with nothing of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from optforge.compiler.driver import Workspace, check_source, run_passes
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import FunctionName
from optforge.compiler.ir.shards import Owned, Reduced, ShardStage
from optforge.compiler.ir.types import FULL, GRAMS, Dim, Kind, Phase, Type, Universe
from optforge.compiler.ir.verifier import InternalError, require_valid_shards
from optforge.compiler.oracle.interpreter import Inputs, evaluate_function
from optforge.compiler.oracle.shards import Ranks, run_stages
from optforge.compiler.passes.shard_stages import shard_stages
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source
from tests.ir.test_operators import ALL, Example
from tools.programs.programs import random_programs

SIZES = (5, 4)
LENGTHS = {5: ((5,), (2, 3), (0, 4, 1), (1, 0, 4, 0)), 4: ((4,), (3, 1), (2, 0, 2), (0, 0, 1, 3)), 7: ((7,), (0, 5, 2))}
TOLERANCE = 1e-9  # of the largest element; eigenvectors of random matrices are that well determined


def require_alike(function: ir.Function, states: tuple[ir.State, ...], inputs: Inputs) -> tuple[ShardStage, ...]:
    """The stages, which give what the function gives wherever its matrices are cut."""
    stages = shard_stages(function)
    require_valid_shards(stages, set(inputs.combined), "shards")
    wanted = evaluate_function(function, inputs)
    for dim, size in zip((Dim.ROWS, Dim.COLS), inputs.weight.shape, strict=True):
        for lengths in LENGTHS.get(size, ((1,), (0, 1))):
            found = run_stages(stages, inputs, states, Ranks(inputs.weight.shape, dim, lengths))
            for name, value in wanted.items():
                expected = np.asarray(value, dtype=np.float64)
                assert found[name].shape == expected.shape, (name, dim, lengths)
                error = np.abs(found[name] - expected).max()
                assert not error > TOLERANCE * max(np.abs(expected).max(), 1e-3), (name, dim, lengths, error)
                assert (np.isnan(found[name]) == np.isnan(expected)).all(), (name, dim, lengths)
    return stages


def random_state(found: Type, sizes: tuple[int, int], rng: np.random.Generator) -> Any:
    assert found.shape is not None
    whole = {Dim.ONE: 1, Dim.ROWS: sizes[0], Dim.COLS: sizes[1]}
    array = rng.normal(size=tuple(whole[dim] for dim in found.shape))
    return array @ array.T + np.diag(1.0 + np.arange(len(array))) if found.shape in GRAMS else np.abs(array) + 0.1


def inputs_for(rule: ir.Rule, hypers: Mapping[str, Any]) -> Inputs:
    """Some step of the rule, not the first."""
    rng = np.random.default_rng(1)
    sizes = SIZES if rule.universe is Universe.MATRIX else (7, 1)
    states = {state.name: random_state(state.type, sizes, rng) for state in rule.states}
    combined = {each.name: np.array([[0.7]]) for stage in rule.step for each in stage.collectives}
    weight, grad = rng.normal(size=sizes), rng.normal(size=sizes)
    noise = rng.integers(1 << 32, size=sizes, dtype=np.uint32)
    return Inputs(weight, grad, noise=noise, t=11.0, hypers=hypers, states=states, combined=combined)


def optimizers_of(program: ir.Program) -> Iterator[ir.Optimizer]:
    """The optimizers, without the rules that need whole matrices: those with a dimension of their own."""
    ready = run_passes(program, TORCH.rewrites)
    for each in ready.declarations:
        if isinstance(each, ir.Optimizer):
            yield replace(each, rules=tuple(rule for rule in each.rules if rule.rank is None))


# Each operator


def function_of(example: Example) -> tuple[ir.Function, tuple[ir.State, ...]]:
    """A step whose only result is the operator's, of states and a hyper."""
    values: list[ir.Expr] = []
    states: list[ir.State] = []
    for index, argument in enumerate(example.node.arguments[: example.operator.values]):
        assert isinstance(argument, ir.Input)
        if argument.type.phase is Phase.STREAM:
            states.append(ir.State(f"x{index}", argument.type))
            values.append(replace(argument, source=ir.InputSource.STATE))
        else:
            values.append(argument)
    node = replace(example.node, arguments=(*values, *example.node.arguments[example.operator.values :]))
    return ir.Function(FunctionName("step"), Universe.MATRIX, (), (ir.Output("weight", node),)), tuple(states)


@pytest.mark.parametrize("example", [each for each in ALL if "T" in each.phases], ids=str)
def test_operators_on_shards(example: Example) -> None:
    function, states = function_of(example)
    given = [np.asarray(value) for value in example.values(SIZES, (), torch.float64)]
    arrays = {state.name: given[int(state.name[1:])] for state in states}
    hypers = {f"x{index}": value.item() for index, value in enumerate(given) if f"x{index}" not in arrays}
    stages = require_alike(function, states, Inputs(np.zeros(SIZES), np.zeros(SIZES), hypers=hypers, states=arrays))
    asked = {type(request) for stage in stages for request in stage.requests}
    operator = example.operator
    if operator.elementwise or operator.name == "transpose":
        assert not asked
    else:
        assert asked == {Reduced if operator.reduces else Owned}


def test_an_outer_product_is_local() -> None:
    shapes = ((Dim.ROWS, Dim.ONE), (Dim.ONE, Dim.COLS))
    types = [Type(Kind.NUMBER, shape, Phase.STREAM) for shape in shapes]
    x, y = (ir.Input(name, ir.InputSource.STATE, type=found) for name, found in zip("xy", types, strict=True))
    node = ir.Apply("matmul", (x, y), type=Type(Kind.NUMBER, FULL, Phase.STREAM))
    function = ir.Function(FunctionName("step"), Universe.MATRIX, (), (ir.Output("weight", node),))
    rng = np.random.default_rng(1)
    states = {name: random_state(found, SIZES, rng) for name, found in zip("xy", types, strict=True)}
    inputs = Inputs(np.zeros(SIZES), np.zeros(SIZES), states=states)
    assert len(require_alike(function, tuple(map(ir.State, "xy", types)), inputs)) == 1


# Whole rules


def test_shipped_rules_on_shards() -> None:
    workspace = Workspace()
    programs = [snapshot.program for path in sorted(SPECS.glob("*.opt")) if (snapshot := workspace.snapshot(path))]
    tried = 0
    for optimizer in (each for program in programs if program for each in optimizers_of(program)):
        hypers = {hyper.name: 0.1 if hyper.default is None else hyper.default.value for hyper in optimizer.hypers}
        for rule in optimizer.rules:
            require_alike(rule.update, rule.states, inputs_for(rule, hypers))
            tried += 1
    assert tried > 150


def test_random_rules_on_shards() -> None:
    asked = {Reduced: 0, Owned: 0}
    for program in random_programs(11, 60):
        trials = {trial.name: trial for trial in program.trials}
        for optimizer in optimizers_of(check_source(Source("random.opt", program.text)).require()):
            hypers = trials[optimizer.name].groups[0] if optimizer.name in trials else {}
            defaults = {hyper.name: hyper.default.value for hyper in optimizer.hypers if hyper.default is not None}
            if {hyper.name for hyper in optimizer.hypers} - {*hypers, *defaults}:
                continue
            for rule in optimizer.rules:
                try:
                    stages = require_alike(rule.update, rule.states, inputs_for(rule, {**defaults, **hypers}))
                except AssertionError as problem:
                    raise AssertionError(f"{optimizer.name}.{rule.name}: {problem}\n{program.text}") from problem
                for request in (request for stage in stages for request in stage.requests):
                    asked[type(request)] += 1
    assert min(asked.values()) > 12, asked


def stages_of(text: str) -> tuple[ShardStage, ...]:
    (optimizer,) = optimizers_of(check_source(Source("case.opt", text)).require())
    return shard_stages(optimizer.rules[0].update)


TWICE = """optimizer Twice:
    for matrix:
        o = orthogonalize(grad)
        v = ema(mean(o^2, per=row), 0.9)  # which ranks keep
        p = orthogonalize(o / sqrt(v))
        weight <- weight - 0.1 * p * norm(p - weight)
"""


def test_what_is_ready_at_the_same_time_is_asked_for_together() -> None:
    namo = Workspace().snapshot(SPECS / "namo.opt").require()
    (optimizer,) = optimizers_of(namo)
    first, last = shard_stages(optimizer.rules[0].update)
    assert [type(request) for request in first.requests] == [Reduced, Owned] and not last.requests


def test_the_owner_may_be_asked_twice() -> None:
    (optimizer,) = optimizers_of(check_source(Source("case.opt", TWICE)).require())
    (rule,) = optimizer.rules
    stages = require_alike(rule.update, rule.states, inputs_for(rule, {}))
    first, second = (request for stage in stages for request in stage.requests if isinstance(request, Owned))
    assert first.sent == ("grad",) and first.back == ("mean",)
    assert (first.left, second.carried) == (("o",), ("o",)) and "o" not in second.sent  # where it is already


@pytest.mark.parametrize("change", ["answers", "requests", "outputs", "reduction"])
def test_wrong_stages_are_found(change: str) -> None:
    first, *rest = stages_of(TWICE)
    broken = {
        "answers": (first, *(replace(each, requests=()) for each in rest[:-1]), rest[-1]),
        "requests": (first, *rest[:-1], replace(rest[-1], requests=first.requests)),
        "outputs": (replace(first, function=replace(first.function, outputs=())), *rest),
        "reduction": (ShardStage(norm_of_grad()),),
    }[change]
    require_valid_shards((first, *rest), set(), "shards")
    with pytest.raises(InternalError):
        require_valid_shards(broken, set(), "shards")


def norm_of_grad() -> ir.Function:
    (optimizer,) = optimizers_of(
        check_source(
            Source("n.opt", "optimizer N:\n    for tensor:\n        weight <- weight - norm(grad) * grad\n")
        ).require()
    )
    return optimizer.rules[0].update
