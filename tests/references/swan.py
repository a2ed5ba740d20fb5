"""SWAN (arXiv 2412.13148): the gradient's rows standardized, the result whitened and brought back to its norm."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import REST_BETA1, REST_EPS, State
from tests.references.orthogonal import exact_iteration
from tests.references.rests import RestByScaledAdamW


class SWAN(RestByScaledAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "steps": {"steps": 3},
        "eps": {"eps": 1e-2},
        "rest_ratio": {"rest_ratio": 0.1},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = 2.0**10  # a small singular value is doubled in every step of the iteration

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        steps: int = 10,
        eps: float = 1e-8,
        rest_ratio: float = 1.0,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        rest = {"rest_ratio": rest_ratio, "rest_beta1": rest_beta1, "rest_eps": rest_eps}
        super().__init__(params, lr=lr, steps=steps, eps=eps, **rest)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, lr: float, steps: int, eps: float, **_: Any) -> None:
        deviation = G.std(dim=1, correction=0, keepdim=True)
        standardized = (G - G.mean(dim=1, keepdim=True)) / (deviation + eps)
        white = exact_iteration(standardized, steps)
        W -= lr * standardized.norm() * white / white.norm().clamp(min=1e-10)
