"""LaProp (arXiv 2002.04839): the average of normalized gradients, where Adam normalizes the average."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class LaProp(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 4e-4,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-15,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        t = state["step"]
        v = kept(state, "v", p).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        normalized = g / ((v / (1 - beta2**t)).sqrt() + eps)
        m = kept(state, "m", p).mul_(beta1).add_(normalized, alpha=1 - beta1)
        p.mul_(1 - lr * weight_decay)
        p.add_(m, alpha=-lr / (1 - beta1**t))

    step_matrix = step_rest
