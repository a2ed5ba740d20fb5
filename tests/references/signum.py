"""Signum (arXiv 1802.04434): SignSGD with momentum inside the sign."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class Signum(PerParameter):
    SECOND: ClassVar = {"lr": {"lr": 3e-2}, "beta": {"beta": 0.5}, "weight_decay": {"weight_decay": 0.5}}

    def __init__(self, params: Any, lr: float = 1e-4, weight_decay: float = 0.0, beta: float = 0.9) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, beta=beta)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, weight_decay: float, beta: float) -> None:
        m = kept(state, "m", p).mul_(beta).add_(g, alpha=1 - beta)
        p -= lr * (m.sign() + weight_decay * p)

    step_matrix = step_rest
