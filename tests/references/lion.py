"""Lion (arXiv 2302.06675): the sign of an interpolation between momentum and gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


def step_direction(g: Tensor, state: State, beta1: float, beta2: float) -> Tensor:
    """sign(beta1 m + (1 - beta1) g), with m as it was; then m moves on."""
    m = kept(state, "m", g)
    direction = (beta1 * m + (1 - beta1) * g).sign()
    m.mul_(beta2).add_(g, alpha=1 - beta2)
    return direction


class Lion(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "weight_decay": {"weight_decay": 0.5},
    }

    def __init__(
        self, params: Any, lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, beta1: float, beta2: float, weight_decay: float
    ) -> None:
        p.mul_(1 - lr * weight_decay)
        p.add_(step_direction(g, state, beta1, beta2), alpha=-lr)

    step_matrix = step_rest
