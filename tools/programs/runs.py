"""The runs of one declaration: an optimizer, a schedule, a penalty."""

from __future__ import annotations

from typing import assert_never

import numpy as np
import torch

from optforge.compiler.ir import nodes as ir
from optforge.compiler.oracle import interpreter as interpret
from tools.programs.choices import graphs_of
from tools.programs.differential import (
    Compiled,
    Shares,
    hyper_values,
    require_close,
    require_same_function,
    size,
)
from tools.programs.programs import Trial
from tools.programs.trials import OptimizerTrial


def run_trial(compiled: Compiled, trial: Trial, seed: int, shares: Shares) -> None:
    declaration: ir.Declaration = compiled.declared(trial.name)
    match declaration:
        case ir.Optimizer():
            with graphs_of(shares, seed) as strategies:
                OptimizerTrial(compiled, trial, declaration, seed, strategies).run()
        case ir.Schedule():
            run_schedule(compiled, trial, declaration)
        case ir.Penalty():
            run_penalty(compiled, trial, declaration, seed)
        case _:
            assert_never(declaration)


def run_schedule(compiled: Compiled, trial: Trial, declaration: ir.Schedule) -> None:
    """The factor of each step, and the lr that a scheduler sets."""
    values = hyper_values(declaration, trial.groups[0])
    versions = [(stage, each.function) for stage, each in compiled.versions(trial.name)]
    base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(compiled.module, trial.name)(base, **trial.groups[0])
    for t in range(1, 9):
        factor = require_same_function("factor", versions, interpret.Inputs(t=float(t), hypers=values))["factor"]
        require_close("generated module", f"factor at t = {t}", base.param_groups[0]["lr"], factor, size(factor))
        base.step()
        scheduler.step()


def run_penalty(compiled: Compiled, trial: Trial, declaration: ir.Penalty, seed: int) -> None:
    """The value, and the derivative along a random direction by differences."""
    rng = np.random.default_rng(seed)
    shapes = [(4, 4), (6, 3), (1, 4), (2, 3, 2), (5,)]
    weights = [rng.standard_normal(shape) for shape in shapes]
    values = hyper_values(declaration, trial.groups[0])

    def oracle(shift: float) -> float:
        rules = {role: rule for rule in declaration.rules for role in rule.roles}
        total = 0.0
        for weight, direction in zip(weights, directions, strict=True):
            rule = rules.get("matrix" if weight.ndim > 1 else "vector")
            if rule is not None:
                matrix = interpret.as_matrix(weight + shift * direction, rule.universe)
                inputs = interpret.Inputs(weight=matrix, hypers=values)
                total += float(interpret.evaluate_function(rule.update, inputs)["loss"].item())
        return total

    directions = [rng.standard_normal(shape) for shape in shapes]
    slope = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
    for module in (compiled.module, compiled.plain_module):
        tensors = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
        loss = getattr(module, trial.name)(tensors, **trial.groups[0])()
        require_close("generated penalty", "loss", loss.item(), oracle(0.0), size(oracle(0.0)))
        if not loss.requires_grad:
            continue
        loss.backward()
        pairs = [(p.grad.numpy(), d) for p, d in zip(tensors, directions, strict=True) if p.grad is not None]
        found = sum(float((grad * direction).sum()) for grad, direction in pairs)
        require_close("penalty's gradient", "slope", found, slope, 1e5 * max(size(slope), size(oracle(0.0))))
