"""RMNP (arXiv 2603.20527): momentum whose rows are divided by their norms."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import REST_BETA1, State, kept
from tests.references.rests import RestByScaledAdamW


class RMNP(RestByScaledAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta": {"beta": 0.5},
        "weight_decay": {"weight_decay": 0.0},
        "eps": {"eps": 1e-2},
        "rest_ratio": {"rest_ratio": 1.0},
        **REST_BETA1,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        beta: float = 0.95,
        weight_decay: float = 0.1,
        eps: float = 1e-8,
        rest_ratio: float = 0.2,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, weight_decay: float, eps: float, **_: Any
    ) -> None:
        V = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        for i in range(W.size(0)):
            W[i] -= lr * (V[i] / (V[i].norm() + eps) + weight_decay * W[i])
