"""Sophia-G (arXiv 2305.14342): a step of at most lr per weight, momentum over a Gauss-Newton curvature."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class SophiaG(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "rho": {"rho": 2.0},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.5},
    }
    EVENTS: ClassVar = {"curvature": {"batch_size": 8.0}}

    def __init__(
        self,
        params: Any,
        lr: float = 6e-4,
        beta1: float = 0.965,
        beta2: float = 0.99,
        rho: float = 0.05,
        eps: float = 1e-12,
        weight_decay: float = 0.2,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, rho=rho, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def curvature(self, batch_size: float) -> None:
        """The gradients are those of the mean loss on sampled labels: B times their square is the estimate."""
        for group, p, state in self.active():
            h = kept(state, "h", p).view_as(p)  # steps see convolutions as matrices
            h.mul_(group["beta2"]).addcmul_(p.grad, p.grad, value=(1 - group["beta2"]) * batch_size)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        rho: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        m = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        h = kept(state, "h", p).view_as(p)
        p -= lr * weight_decay * p
        p -= lr * (m / (rho * h).clamp(min=eps)).clamp(-1, 1)

    step_matrix = step_rest
