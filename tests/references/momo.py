"""MoMo (arXiv 2305.07583): SGD with momentum on a model of the loss, truncated at a lower bound."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter


class MoMo(PerParameter):
    """Every parameter keeps a copy of both numbers, as those without a gradient take no part in a step."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-3},
        "beta": {"beta": 0.5},
        "least": {"least": 1.5},
    }
    EVENTS: ClassVar = {"observe": {"loss": 2.5}}

    def __init__(self, params: Any, lr: float = 1.0, beta: float = 0.9, least: float = 0.0) -> None:
        super().__init__(params, lr=lr, beta=beta, least=least)

    def observe(self, loss: float) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["f"] = p.new_tensor(loss)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        active = list(self.active())
        slope = sum((p.grad * p).sum() for _, p, _ in active)
        for group, p, state in active:
            beta = group["beta"]

            def average(name: str, new: Tensor, state: Any = state, beta: float = beta) -> Tensor:
                state[name] = beta * state.get(name, new) + (1 - beta) * new
                return state[name]

            average("m", p.grad)
            average("level", state["f"])
            average("inner", slope)
        along = sum((state["m"] * p).sum() for _, p, state in active)
        size = sum((state["m"] ** 2).sum() for _, _, state in active)
        for group, p, state in active:
            height = state["level"] + along - state["inner"]
            p -= min(group["lr"], (height - group["least"]).clamp(min=0) / size) * state["m"]
