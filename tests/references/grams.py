"""Grams (arXiv 2412.17107): AdamW says how far, the gradient says which way."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State, kept


class Grams(AdamW):
    SECOND: ClassVar = {**AdamW.SECOND, "beta1": {"lr": 3e-2, "beta1": 0.5}}

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
        size = (m / (1 - beta1**t)).abs() / ((v / (1 - beta2**t)).sqrt() + eps)
        p -= lr * weight_decay * p
        p -= lr * size.copysign(g)

    step_matrix = step_rest
