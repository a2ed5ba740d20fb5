"""RMNP as in its GPT-2 code: heavy ball, Nesterov, rows normalized, sqrt(max(1, rows / cols)), decay first."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.adamw import step_adamw
from tests.references.loop import REST_BETA1, REST_EPS, PerParameter, State, kept


class RMNPOfficial(PerParameter):
    """The rest follows AdamW with lr times rest_ratio, beta2 0.95 and decay 0.1."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta": {"beta": 0.5},
        "weight_decay": {"weight_decay": 0.3},
        "eps": {"eps": 1.0},
        "rest_ratio": {"rest_ratio": 1.0},
        "nesterov": {"nesterov": False},
        **REST_BETA1,
        **REST_EPS,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        weight_decay: float = 0.0,
        eps: float = 1e-12,
        rest_ratio: float = 0.2,
        nesterov: bool = True,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "eps": eps, "nesterov": nesterov}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        weight_decay: float,
        eps: float,
        nesterov: bool,
        **_: Any,
    ) -> None:
        B = kept(state, "m", G).mul_(beta).add_(G)
        U = G + beta * B if nesterov else B
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * normalize(U, dim=-1, eps=eps)

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
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0.1)
