"""Moonlight's Muon (arXiv 2502.16982): heavy ball with Nesterov, and 0.2 sqrt(max(rows, cols)) on the steps."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import REST_EPS, State, kept
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz


class Moonlight(Muon):
    """The momentum is kept as an average. The rest follows AdamW with lr times rest_ratio and the same decay."""

    SECOND: ClassVar = {**Muon.SECOND, "lr": {"lr": 0.02}, **REST_EPS}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        steps: int = 5,
        rest_ratio: float = 1.0,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        rest = {"rest_ratio": rest_ratio, "rest_beta1": rest_beta1, "rest_eps": rest_eps}
        super(Muon, self).__init__(params, **hypers, **rest)

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
        summed = M / (1 - beta)
        U = G + beta * summed if nesterov else summed
        W *= 1 - lr * weight_decay
        W -= lr * 0.2 * max(W.shape) ** 0.5 * newton_schulz(U, steps)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        rest_ratio: float,
        rest_beta1: float,
        rest_eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=weight_decay)
