"""NovoGrad (arXiv 1905.11286): one second moment per parameter, and decay inside the momentum."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class NovoGrad(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.5},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta1: float = 0.95,
        beta2: float = 0.98,
        eps: float = 1e-8,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        square = g.norm() ** 2
        state["v"] = beta2 * state["v"] + (1 - beta2) * square if "v" in state else square
        normalized = g / (state["v"].sqrt() + eps)
        m = kept(state, "m", p).mul_(beta1).add_(normalized + weight_decay * p)
        p.add_(m, alpha=-lr)

    step_matrix = step_rest
