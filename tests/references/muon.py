"""Muon as in Keller Jordan's file: Nesterov momentum, five Newton-Schulz steps, sqrt(max(1, rows / cols))."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class Muon(PerParameter):
    """The rest follows AdamW with lr times rest_ratio, beta2 0.95, eps 1e-10 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-3},
        "beta": {"beta": 0.8},
        "nesterov": {"nesterov": False},
        "weight_decay": {"weight_decay": 0.2},
        "steps": {"steps": 3},
        "rest_ratio": {"rest_ratio": 0.5},
        **REST_BETA1,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, **hypers, steps=steps, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

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
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        U = G.lerp(M, beta) if nesterov else M
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * newton_schulz(U, steps)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_ratio: float, rest_beta1: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=1e-10, weight_decay=0)
