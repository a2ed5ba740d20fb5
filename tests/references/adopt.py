"""ADOPT (arXiv 2411.02853): each gradient is divided by the second moment of those before it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class ADOPT(PerParameter):
    """In the numbering of the paper the first gradient is number 0 and takes no step."""

    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 0.3},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.9999,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
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
        number = state["step"] - 1
        m = kept(state, "m", p)
        if number == 0:
            state["v"] = g * g
            return
        bound = number**0.25
        n = (g / state["v"].sqrt().clamp(min=eps)).clamp(-bound, bound)
        m.mul_(beta1).add_(n, alpha=1 - beta1)
        p -= lr * (m + weight_decay * p)
        state["v"] = beta2 * state["v"] + (1 - beta2) * g * g

    step_matrix = step_rest
