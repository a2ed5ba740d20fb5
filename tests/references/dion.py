"""Dion (arXiv 2504.05295), its first algorithm, from the right singular vectors of the first gradient on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.galore import leading_vectors
from tests.references.loop import REST_BETA1, REST_EPS, PerParameter, State, kept


class Dion(PerParameter):
    """The rest follows AdamW."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "mu": {"mu": 0.5},
        "share": {"share": 0.75},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.5},
        "rest_ratio": {"rest_ratio": 1.0},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = 1000.0  # vectors of singular values that are close

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        mu: float = 0.95,
        share: float = 0.25,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        rest_ratio: float = 0.3,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "mu": mu, "share": share, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        X: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        mu: float,
        share: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        rows, cols = X.shape
        r = max(int(share * min(rows, cols)), 1)
        M = kept(state, "m", G)
        Q = state["q"] if "q" in state else leading_vectors(G.T, r)
        B = M + G
        P, upper = torch.linalg.qr(B @ Q)
        P = P * upper.diagonal().sign()
        R = B.T @ P
        M.copy_(B - (1 - mu) * P @ R.T)
        state["q"] = R / (R.norm(dim=0) + eps)
        X.mul_(1 - lr * weight_decay).sub_(lr * (rows / cols) ** 0.5 * P @ state["q"].T)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        rest_ratio: float,
        rest_beta1: float,
        rest_eps: float,
        **_: Any,
    ) -> None:
        t = state["step"]
        m = kept(state, "m", p).mul_(rest_beta1).add_((1 - rest_beta1) * g)
        v = kept(state, "v", p).mul_(0.95).add_(0.05 * g * g)
        p -= lr * rest_ratio * (m / (1 - rest_beta1**t)) / ((v / (1 - 0.95**t)).sqrt() + rest_eps)
