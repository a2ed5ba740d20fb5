"""SinkGD (arXiv 2502.06742): five rounds of row and column normalization of the gradient, no state."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.loop import REST_BETA1, REST_EPS, State
from tests.references.rests import RestByScaledAdamW

ROUNDS = 5


class SinkGD(RestByScaledAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "scale": {"scale": 0.2},
        "rest_ratio": {"rest_ratio": 1.0},
        **REST_BETA1,
        **REST_EPS,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        scale: float = 0.05,
        rest_ratio: float = 0.05,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        rest = {"rest_ratio": rest_ratio, "rest_beta1": rest_beta1, "rest_eps": rest_eps}
        super().__init__(params, lr=lr, scale=scale, **rest)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, lr: float, scale: float, **_: Any) -> None:
        rows, cols = G.shape
        X = G
        for _round in range(ROUNDS):
            X = cols**0.5 * normalize(X, dim=1, eps=1e-10)
            X = rows**0.5 * normalize(X, dim=0, eps=1e-10)
        W -= lr * scale * X
