"""Stochastic gradient descent with all of torch's flags."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State


class SGD(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "momentum": {"momentum": 0.9},
        "dampening": {"momentum": 0.9, "dampening": 0.3},
        "weight_decay": {"weight_decay": 0.3},
        "nesterov": {"momentum": 0.9, "nesterov": True},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        hypers = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, lr=lr, **hypers)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        g = g + weight_decay * p
        if momentum and "m" in state:
            state["m"] = momentum * state["m"] + (1 - dampening) * g
        else:
            state["m"] = g.clone()
        p -= lr * (g + momentum * state["m"] if nesterov else state["m"])

    step_matrix = step_rest
