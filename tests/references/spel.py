"""SPEL (arXiv 2601.21487): spectral steps on the manifold of matrices with orthonormal rows or columns."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import REST_BETA1, REST_EPS, State, kept
from tests.references.orthogonal import POLAR_EXPRESS_SLOPE, orthogonalized
from tests.references.rests import RestByScaledAdamW


class SPEL(RestByScaledAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta": {"beta": 0.5},
        "steps": {"steps": 6},
        "method": {"method": "newton_schulz", "steps": 1},  # more steps are chaotic, since the weights go in again
        "rest_ratio": {"rest_ratio": 0.5},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = POLAR_EXPRESS_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        steps: int = 8,
        method: str = "polar_express",
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        rest = {"rest_ratio": rest_ratio, "rest_beta1": rest_beta1, "rest_eps": rest_eps}
        super().__init__(params, lr=lr, beta=beta, steps=steps, method=method, **rest)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, steps: int, method: str, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        W.copy_(orthogonalized(W - lr * orthogonalized(M, method, steps), method, steps))
