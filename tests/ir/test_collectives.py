"""Stages with collectives between them: which sums share a round, and what the compiler holds itself to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from optforge.compiler.driver import compile_program
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.collectives import Combination, Over
from optforge.compiler.ir.names import function_text
from optforge.compiler.ir.types import FULL, Kind, Phase, Type
from optforge.compiler.ir.verifier import InternalError, require_valid
from optforge.compiler.load import compile_source
from optforge.compiler.oracle.interpreter import OracleParameter, fire_event, run_step
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source

CHAIN = """
optimizer Chain:
    hyper lr = 0.1 where lr >= 0 "step"

    for tensor:
        size = total(norm(grad)^2)
        count = total(sum(abs(grad)))
        share = total(norm(grad / sqrt(size)))
        unread = total(sum(weight))
        m = ema(grad * unread, 0.5)
        weight <- weight - lr * grad * share / (size + count)

    on probe():
        h = prev(h, 0) + total(sum(grad))
        weight <- weight + h
"""


def compiled(text: str = CHAIN) -> tuple[ir.Program, ir.Optimizer, ir.Rule]:
    program = compile_program(Source("chain.opt", text), TORCH)
    (declaration,) = program.declarations
    assert isinstance(declaration, ir.Optimizer)
    return program, declaration, declaration.rules[0]


def test_sums_that_need_no_others_share_a_stage():
    """And what nobody reads is not summed."""
    _, _, rule = compiled()
    assert [[each.name for each in stage.collectives] for stage in rule.step] == [
        ["total_1", "total_2"],
        ["total_3"],
        [],
    ]
    assert [function_text(stage.function.name) for stage in rule.step] == ["step.sums", "step.sums.2", "step"]
    (event,) = rule.events
    assert [[each.name for each in stage.collectives] for stage in event.step] == [["probe_total_1"], []]


def test_stages_run_one_after_the_other():
    """Against the formulas, for parameters of different shapes."""
    _, _, rule = compiled()
    random = np.random.default_rng(0)
    starts, grads = ([random.standard_normal(shape) for shape in ((3, 2), (4,))] for _ in range(2))
    parameters = [OracleParameter(start, rule) for start in starts]
    run_step(parameters, grads, [{"lr": 0.1}] * 2)
    size, count = sum((g**2).sum() for g in grads), sum(abs(g).sum() for g in grads)
    share = sum(np.linalg.norm(g.ravel()) for g in grads) / np.sqrt(size)
    for parameter, start, grad in zip(parameters, starts, grads, strict=True):
        np.testing.assert_allclose(parameter.value, start - 0.1 * grad * share / (size + count), rtol=1e-14)
    before = [parameter.value for parameter in parameters]
    fire_event(parameters, "probe", grads, [{"lr": 0.1}] * 2, {})
    for parameter, value in zip(parameters, before, strict=True):
        np.testing.assert_allclose(parameter.value, value + sum(g.sum() for g in grads), rtol=1e-14)


OWN = """
optimizer Own:
    hyper lr = 0.1 where lr >= 0

    for matrix:
        m = ema(grad, 0.5)
        all = total(sum(grad^2))
        own = total(norm(m)^2 * rows, over=matrix)
        both = total(sum(grad) / own, over=matrix)
        weight <- weight - lr * m * (own + both) / all

    for rest:
        own = total(sum(abs(grad)), over=rest)
        weight <- weight - lr * grad / own
"""


def test_sums_over_the_parameters_of_a_rule():
    """Of what only these have, in the oracle and in the class, against the formulas; others count in the rest."""
    (optimizer,) = compile_program(Source("own.opt", OWN), TORCH).declarations
    assert isinstance(optimizer, ir.Optimizer)
    matrix, rest = optimizer.rules
    assert [[each.over for each in stage.collectives] for stage in matrix.step] == [
        [Over.PARAMETERS], [Over.OF_RULE], [Over.OF_RULE], [],
    ]  # fmt: skip
    random = np.random.default_rng(0)
    shapes = ((3, 2), (2, 4), (4,), (5,))
    starts, grads = ([random.standard_normal(shape) for shape in shapes] for _ in range(2))
    rules = (matrix, matrix, rest, rest)
    parameters = [OracleParameter(start, rule) for start, rule in zip(starts, rules, strict=True)]
    run_step(parameters, grads, [{"lr": 0.1}] * 4)

    everything = sum((g**2).sum() for g in grads)
    of_matrices = sum((0.25 * g**2).sum() * len(g) for g in grads[:2])
    both = sum(g.sum() for g in grads[:2]) / of_matrices
    of_rest = sum(abs(g).sum() for g in grads[2:])
    factors = [0.5 * (of_matrices + both) / everything] * 2 + [1 / of_rest] * 2
    tensors = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    groups = [{"params": tensors[:2], "rule": "matrix"}, {"params": tensors[2:], "rule": "rest"}]
    own = compile_source(OWN).Own(groups)
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    own.step()
    for parameter, tensor, start, grad, factor in zip(parameters, tensors, starts, grads, factors, strict=True):
        expected = start - 0.1 * grad * factor
        np.testing.assert_allclose(parameter.value, expected, rtol=1e-13)
        np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-13)


def first_changed(**changes: Any) -> Callable[[tuple[ir.Stage, ...]], tuple[ir.Stage, ...]]:
    def change(stages: tuple[ir.Stage, ...]) -> tuple[ir.Stage, ...]:
        first = stages[0]
        collectives = (replace(first.collectives[0], **changes), *first.collectives[1:])
        return (replace(first, collectives=collectives), *stages[1:])

    return change


VECTOR = Type(Kind.NUMBER, FULL, Phase.STREAM)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda stages: stages[:-1], "the last stage of a step gives its results"),
        (lambda stages: (), "the last stage of a step gives its results"),
        (lambda stages: (ir.Stage(stages[0].function), *stages[1:]), "outputs of `step.sums` are not what is combined"),
        (lambda stages: (stages[1], stages[0], stages[2]), "reads combined `total_1`, which it is not given"),
        (lambda stages: stages[1:], "reads combined `total_1`, which it is not given"),
        (lambda stages: (stages[0], *stages), "two collectives are called `total_1`"),
        (first_changed(name="total"), "the outputs of `step.sums` are not what is combined"),
        (first_changed(type=VECTOR), "the outputs of `step.sums` are not what is combined"),
        (first_changed(kind=Combination.GATHER), "`total_1` is combined as nothing before a target combines"),
        (first_changed(over=Over.OF_RULE), "`step.sums` runs for some parameters and for others"),
        (first_changed(over=Over.ROW_SHARDS), "`total_1` is combined as nothing before a target combines"),
    ],
)  # fmt: skip
def test_stages_hold_what_later_ones_read(change, message):
    program, declaration, rule = compiled()
    require_valid(program, "storage")
    broken = replace(program, declarations=(replace(declaration, rules=(replace(rule, step=change(rule.step)),)),))
    with pytest.raises(InternalError, match=message):
        require_valid(broken, "storage")
