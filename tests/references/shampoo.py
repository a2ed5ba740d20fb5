"""Shampoo (arXiv 1802.09568) for matrices: both sides multiplied by the fourth root of the inverse statistics."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import REST_EPS, PerParameter, State, kept


def inverse_fourth_root(S: Tensor, eps: float) -> Tensor:
    """(S + eps I)^(-1/4)."""
    values, vectors = torch.linalg.eigh(S + eps * torch.eye(S.size(0), dtype=S.dtype))
    return vectors @ torch.diag(values.clamp(min=eps) ** -0.25) @ vectors.T


class Shampoo(PerParameter):
    """The rest follows Adagrad."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.01},
        "momentum": {"momentum": 0.7},
        "eps": {"eps": 0.1},
        "every": {"every": 4, "eps": 0.1},
        **REST_EPS,
    }
    SENSITIVITY = 1000.0  # roots of small eigenvalues, which are wrong by as much as large ones

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.9,
        eps: float = 1e-4,
        every: int = 1,
        rest_eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, eps=eps, every=every, rest_eps=rest_eps)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, momentum: float, eps: float, every: int, **_: Any
    ) -> None:
        L = kept(state, "l", G @ G.T).add_(G @ G.T)
        R = kept(state, "r", G.T @ G).add_(G.T @ G)
        if (state["step"] - 1) % every == 0:
            state["p_l"], state["p_r"] = inverse_fourth_root(L, eps), inverse_fourth_root(R, eps)
        M = kept(state, "m", G).mul_(momentum).add_(state["p_l"] @ G @ state["p_r"])
        W -= lr * M

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, rest_eps: float, **_: Any) -> None:
        s = kept(state, "s", p).add_(g * g)
        p -= lr * g / (s.sqrt() + rest_eps)
