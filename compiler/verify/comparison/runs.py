"""A target on a trial: the steps its weight takes, and its states after each.

Everything comes back in NumPy float64; whatever the optimizer raises is a :class:`TargetProblem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optforge.compiler.verify.comparison.targets import ComparedTarget, TargetProblem
from optforge.compiler.verify.comparison.trials import Array, Trial


@dataclass(frozen=True)
class Run:
    """``weights`` holds one more than there are steps: the first is what the run began with."""

    lr: float | None
    weights: tuple[Array, ...]
    states: tuple[Mapping[str, Array], ...]
    hypers: Mapping[str, object]

    @property
    def steps(self) -> list[Array]:
        """The change of the weight, step by step."""
        return [after - before for before, after in zip(self.weights, self.weights[1:], strict=False)]


def run_target(target: ComparedTarget, trial: Trial) -> Run:
    """One optimizer with one parameter, from its first step on."""
    dtype = getattr(torch, trial.dtype)
    parameter = Parameter(torch.tensor(trial.weight, dtype=dtype))
    optimizer = target.optimizer(parameter)
    begin_training(optimizer)
    weights, states = [as_array(parameter)], []
    for count, grad in enumerate(trial.grads, 1):
        parameter.grad = torch.tensor(grad, dtype=dtype)
        try:
            optimizer.step()
        except Exception as error:
            raise TargetProblem(f"{target.label}, step {count}: {type(error).__name__}: {error}") from error
        weights.append(as_array(parameter))
        states.append(states_of(optimizer, parameter))
    group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    lr = group.get("lr")
    return Run(None if lr is None else float(lr), tuple(weights), tuple(states), group)


def begin_training(optimizer: Optimizer) -> None:
    """Schedule-free optimizers want to be told that training begins."""
    train = getattr(optimizer, "train", None)
    if callable(train):
        train()


def states_of(optimizer: Optimizer, parameter: Parameter) -> dict[str, Array]:
    """What the optimizer keeps for the parameter under a name, tensors only."""
    state = optimizer.state.get(parameter, {})
    return {str(name): as_array(value) for name, value in state.items() if isinstance(value, Tensor)}


def as_array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to(torch.float64).numpy().copy()
    return array
