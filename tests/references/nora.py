"""Nora (arXiv 2605.03769): row-normalized momentum, tangent to the rows of the weights."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.adamw import step_adamw
from tests.references.loop import REST_BETA1, PerParameter, State, kept


class Nora(PerParameter):
    """The rest follows AdamW with lr times rest_ratio, beta2 0.95, eps 1e-10 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta": {"beta": 0.5},
        "weight_decay": {"weight_decay": 0.0},
        "rest_ratio": {"rest_ratio": 1.0},
        **REST_BETA1,
    }
    SENSITIVITY = 16.0  # it normalizes a difference

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        beta: float = 0.95,
        weight_decay: float = 0.1,
        rest_ratio: float = 0.2,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, weight_decay: float, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        for i in range(W.size(0)):
            theta = normalize(W[i], dim=0, eps=1e-10)
            tangent = M[i] - (M[i] * theta).sum() * theta
            W[i] -= lr * (normalize(tangent, dim=0, eps=1e-10) + weight_decay * W[i])

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_ratio: float, rest_beta1: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=1e-10, weight_decay=0)
