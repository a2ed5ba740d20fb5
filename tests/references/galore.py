"""GaLore (arXiv 2403.03507): Adam on gradients between a projection and its transpose."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State, kept


def leading_vectors(G: Tensor, r: int) -> Tensor:
    """The first r left singular vectors, each with its largest component positive."""
    U = torch.linalg.svd(G, full_matrices=False)[0][:, :r]
    largest = U.abs().argmax(0)
    return U * U[largest, torch.arange(r)].sign()


class GaLore(PerParameter):
    """The rest follows AdamW."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "rank": {"rank": 2},
        "every": {"every": 3, "rank": 2},
        "scale": {"scale": 1.0},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.5},
    }
    SENSITIVITY = 1000.0  # vectors of singular values that are close

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        rank: float = 128,
        every: int = 200,
        scale: float = 0.25,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        hypers = {"lr": lr, "rank": rank, "every": every, "scale": scale, "beta1": beta1, "beta2": beta2}
        super().__init__(params, **hypers, eps=eps, weight_decay=weight_decay)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, rank: int, every: int, scale: float, **hypers: Any
    ) -> None:
        if W.size(0) > W.size(1):
            W, G = W.T, G.T
        if (state["step"] - 1) % every == 0:
            state["p"] = leading_vectors(G, min(int(rank), len(G)))
        P = state["p"]
        W -= lr * (scale * P @ self.adam(P.T @ G, state, **hypers) + hypers["weight_decay"] * W)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, scale: float, **hypers: Any) -> None:
        hypers = {name: value for name, value in hypers.items() if name not in ("rank", "every")}
        p -= lr * scale * (self.adam(g, state, **hypers) + hypers["weight_decay"] * p)

    def adam(self, g: Tensor, state: State, beta1: float, beta2: float, eps: float, **_: Any) -> Tensor:
        t = state["step"]
        m = kept(state, "m", g).mul_(beta1).add_((1 - beta1) * g)
        v = kept(state, "v", g).mul_(beta2).add_((1 - beta2) * g * g)
        return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
