"""ASGO (arXiv 2503.20762) with moving averages: momentum times the inverse root of one second moment."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import REST_BETA1, REST_EPS, PerParameter, State, kept


class ASGO(PerParameter):
    """The rest follows AdamW."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.01},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.8},
        "eps": {"eps": 0.1},
        "every": {"every": 4},
        "weight_decay": {"weight_decay": 0.5},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = 1000.0  # roots of small eigenvalues, which are wrong by as much as large ones

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        every: int = 1,
        weight_decay: float = 0.1,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "every": every, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        every: int,
        weight_decay: float,
        **_: Any,
    ) -> None:
        is_tall = W.size(0) > W.size(1)
        M = kept(state, "m", G).mul_(beta1).add_((1 - beta1) * G)
        gram = G.T @ G if is_tall else G @ G.T
        V = kept(state, "v", gram).mul_(beta2).add_((1 - beta2) * gram)
        if (state["step"] - 1) % every == 0:
            values, vectors = torch.linalg.eigh(V)
            state["p"] = vectors @ torch.diag((values.clamp(min=0) + eps) ** -0.5) @ vectors.T
        W -= lr * ((M @ state["p"] if is_tall else state["p"] @ M) + weight_decay * W)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_beta1: float, rest_eps: float, **_: Any
    ) -> None:
        t = state["step"]
        m = kept(state, "m", p).mul_(rest_beta1).add_((1 - rest_beta1) * g)
        v = kept(state, "v", p).mul_(0.95).add_(0.05 * g * g)
        p -= lr * (m / (1 - rest_beta1**t)) / ((v / (1 - 0.95**t)).sqrt() + rest_eps)
