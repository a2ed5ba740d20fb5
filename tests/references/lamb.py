"""LAMB (arXiv 1904.00962): AdamW whose step, decay included, is as long as lr times the weights."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State, kept


class LAMB(AdamW):
    SECOND: ClassVar = AdamW.SECOND

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay)

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
        t = state["step"]
        m = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        v = kept(state, "v", p).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        r = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps) + weight_decay * p
        ratio = p.norm() / r.norm() if p.norm() > 0 and r.norm() > 0 else 1.0
        p -= lr * ratio * r

    step_matrix = step_rest
