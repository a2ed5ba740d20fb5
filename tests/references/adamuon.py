"""AdaMuon (arXiv 2507.11005): the signs of a Nesterov momentum orthogonalized, then Adam's second moment of that."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, State, kept
from tests.references.newton_schulz import newton_schulz
from tests.references.rests import RestByAdamW


class AdaMuon(RestByAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 2e-2},
        "beta": {"beta": 0.5},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 6e-4,
        beta: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, eps: float, weight_decay: float, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        O = newton_schulz(((1 - beta) * G + beta * M).sign())
        V = kept(state, "v", G).mul_(beta).addcmul_(O, O, value=1 - beta)
        O_hat = O / (V.sqrt() + eps)
        gamma = 0.2 * W.numel() ** 0.5 / O_hat.norm().clamp(min=eps)
        W -= lr * (gamma * O_hat + weight_decay * W)
