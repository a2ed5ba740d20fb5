"""Schedule-Free SGD (arXiv 2405.15682), with the three sequences x, y and z written out."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State


class ScheduleFreeSGD(PerParameter):
    """The weight is y, where gradients are taken; x is in `mean`. The views of the mean have tests of their own."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta1": {"beta1": 0.6},
        "warmup": {"warmup": 12},
        "weight_decay": {"weight_decay": 0.2},
    }

    def __init__(
        self, params: Any, lr: float = 1.0, beta1: float = 0.9, warmup: float = 0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, warmup=warmup, weight_decay=weight_decay)
        self.mean: dict[Tensor, Tensor] = {}
        self.start()

    def start(self) -> None:
        """All three sequences begin at the same weights."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["z"] = self.mean[p] = p.detach().clone()
                self.state[p]["squares"] = torch.zeros((), dtype=p.dtype)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group, y, state in self.active():
            state["step"] = state.get("step", 0) + 1
            gamma, direction = self.moved(y.grad, state, group)
            z = state["z"] = state["z"] - gamma * (direction + group["weight_decay"] * y)
            state["squares"] = state["squares"] + gamma**2
            c = gamma**2 / state["squares"]
            x = self.mean[y] = (1 - c) * self.mean[y] + c * z
            y.copy_((1 - group["beta1"]) * z + group["beta1"] * x)

    def moved(self, g: Tensor, state: State, group: dict[str, Any]) -> tuple[float, Tensor]:
        """The size and the direction of the step of z."""
        return group["lr"] * min(1, state["step"] / max(1, group["warmup"])), g
