"""AdaBelief (arXiv 2010.07468): AdamW whose second moment is that of gradients around their average."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State, kept


class AdaBelief(AdamW):
    SECOND: ClassVar = AdamW.SECOND

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-16,
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
        v = kept(state, "v", p).mul_(beta2).addcmul_(g - m, g - m, value=1 - beta2).add_(eps)
        p.mul_(1 - lr * weight_decay)
        p -= lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)

    step_matrix = step_rest
