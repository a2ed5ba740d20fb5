"""APOLLO (arXiv 2412.05270): the columns of the gradient, scaled by those of Adam's step in a random subspace."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.drawing import Drawing, normal
from tests.references.loop import State, kept


class APOLLO(Drawing):
    """The rest follows AdamW."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "rank": {"rank": 2},
        "every": {"every": 3, "rank": 2},
        "scale": {"scale": 0.5},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.5},
    }
    SENSITIVITY = 100.0  # columns of which little is left in the subspace

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        rank: float = 128,
        every: int = 200,
        scale: float = 1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: float = 0,
    ) -> None:
        hypers = {"lr": lr, "rank": rank, "every": every, "scale": scale, "beta1": beta1, "beta2": beta2}
        super().__init__(params, **hypers, eps=eps, weight_decay=weight_decay)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, rank: int, every: int, scale: float, **hypers: Any
    ) -> None:
        xi = normal(state, W)
        if W.size(0) > W.size(1):
            W, G, xi = W.T, G.T, xi.T
        r = min(int(rank), len(G))
        if (state["step"] - 1) % every == 0:
            state["p"] = xi[:, :r] / r**0.5
        R = state["p"].T @ G
        factor = scale * self.adam(R, state, **hypers).norm(dim=0) / R.norm(dim=0)
        W -= lr * (factor * G + hypers["weight_decay"] * W)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, **hypers: Any) -> None:
        hypers = {name: value for name, value in hypers.items() if name not in ("rank", "every", "scale")}
        p -= lr * (self.adam(g, state, **hypers) + hypers["weight_decay"] * p)

    def adam(self, g: Tensor, state: State, beta1: float, beta2: float, eps: float, **_: Any) -> Tensor:
        t = state["step"]
        m = kept(state, "m", g).mul_(beta1).add_((1 - beta1) * g)
        v = kept(state, "v", g).mul_(beta2).add_((1 - beta2) * g * g)
        return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
