"""Nora as in its official code: Nesterov, sqrt(max(1, rows / cols)), decay first, an Adam of its own for the rest."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.adamw_raw_eps import step_adamw_raw_eps
from tests.references.loop import PerParameter, State, kept


class NoraOfficial(PerParameter):
    """The rest follows Adam with lr times rest_ratio, whose decay has the factor of the bias correction too."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.05},
        "beta": {"beta": 0.5},
        "weight_decay": {"weight_decay": 0.0},
        "rest_ratio": {"rest_ratio": 1.0},
        "nesterov": {"nesterov": False},
    }
    SENSITIVITY = 16.0  # it normalizes a difference

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        beta: float = 0.95,
        weight_decay: float = 0.1,
        rest_ratio: float = 0.2,
        nesterov: bool = True,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "rest_ratio": rest_ratio}
        super().__init__(params, **hypers, nesterov=nesterov)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        weight_decay: float,
        nesterov: bool,
        **_: Any,
    ) -> None:
        B = kept(state, "m", G).lerp_(G, 1 - beta)
        U = G.lerp(B, beta) if nesterov else B
        theta = normalize(W, dim=-1, eps=1e-10)
        V = U - (U * theta).sum(-1, keepdim=True) * theta
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * normalize(V, dim=-1, eps=1e-10)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_ratio: float, weight_decay: float, **_: Any
    ) -> None:
        t = state["step"]
        step = lr * rest_ratio * (1 - 0.95**t) ** 0.5 / (1 - 0.9**t)
        p *= 1 - step * weight_decay
        step_adamw_raw_eps(p, g, state, lr * rest_ratio, beta1=0.9, beta2=0.95, eps=1e-10, weight_decay=0)
