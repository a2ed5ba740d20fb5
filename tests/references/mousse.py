"""Mousse (arXiv 2603.09697): Newton-Schulz in the basis of Shampoo's factors, on both sides."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant, nesterov_average, shape_scale
from tests.references.newton_schulz import newton_schulz


class Mousse(MuonVariant):
    SECOND: ClassVar = {
        **Muon.SECOND,
        "beta2": {"beta2": 0.5},
        "root": {"root": 4.0},
        "eps": {"eps": 0.1},
        "every": {"every": 3},
    }

    SENSITIVITY = 1e3  # 1 / eps: rounding where the factors have no eigenvalues

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        beta2: float = 0.95,
        root: float = 8,
        eps: float = 1e-3,
        every: int = 10,
        rest_beta1: float = 0.9,
    ) -> None:
        own = {"beta2": beta2, "root": root, "eps": eps, "every": every}
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, **own)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        steps: int,
        beta2: float,
        root: float,
        eps: float,
        every: int,
        **_: Any,
    ) -> None:
        L = kept(state, "l", G @ G.T).lerp_(G @ G.T, 1 - beta2)
        R = kept(state, "r", G.T @ G).lerp_(G.T @ G, 1 - beta2)
        if (state["step"] - 1) % every == 0:
            state["p"] = tempered_inverse(L, 1 / root, eps)
            state["q"] = tempered_inverse(R, 1 / root, eps)
        P, Q = state["p"], state["q"]
        O = newton_schulz(P @ nesterov_average(state, G, beta, nesterov) @ Q, steps)
        U = P @ O @ Q
        W *= 1 - lr * weight_decay
        W -= lr * shape_scale(W) * O.norm() / U.norm() * U


def tempered_inverse(S: Tensor, alpha: float, eps: float) -> Tensor:
    """(S / mean eigenvalue + eps)^-alpha."""
    eigenvalues, Q = torch.linalg.eigh(S * len(S) / S.trace())
    return Q @ torch.diag((eigenvalues.clamp(min=0) + eps) ** -alpha) @ Q.T
