"""ASGD (Polyak and Juditsky, 1992): gradient descent with falling step sizes, and the average of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class ASGD(PerParameter):
    """eta_t = lr / (1 + lambd lr (t - 1))^alpha; the average begins with the weights of step t0 + 1."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "lambd": {"lambd": 0.5},
        "alpha": {"lambd": 0.5, "alpha": 0.3},
        "t0": {"t0": 5},
        "weight_decay": {"weight_decay": 0.2},
    }
    EVENTS: ClassVar = {"show_average": {}, "show_current": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        lambd: float,
        alpha: float,
        t0: float,
        weight_decay: float,
    ) -> None:
        t = state["step"]
        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        p -= eta * (g + weight_decay * p) + lambd * eta * p
        average = kept(state, "average", p)
        kept(state, "kept", p)
        average += (p - average) / max(1, t - 1 - t0)

    step_matrix = step_rest

    @torch.no_grad()
    def show_average(self) -> None:
        for p, state in self.parameters():
            kept(state, "kept", p).copy_(p)
            p.copy_(kept(state, "average", p))

    @torch.no_grad()
    def show_current(self) -> None:
        for p, state in self.parameters():
            kept(state, "average", p)
            p.copy_(kept(state, "kept", p))

    def parameters(self) -> Iterator[tuple[Tensor, State]]:
        """Every parameter, as the step sees it, and its state."""
        for group in self.param_groups:
            for p in group["params"]:
                yield p.view(len(p), -1) if group["role"] in ("matrix", "conv") else p, self.state[p]
