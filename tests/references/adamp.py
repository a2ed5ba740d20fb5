"""AdamP (arXiv 2006.08217), with each row of a matrix as a vector whose scale may not matter."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import AdamW, step_adamw
from tests.references.loop import State, kept


class AdamP(AdamW):
    """The rest follows AdamW with the same hypers."""

    SECOND: ClassVar = {**AdamW.SECOND, "delta": {"delta": 1.0}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        delta: float = 0.1,
        weight_decay: float = 1e-2,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "delta": delta, "weight_decay": weight_decay}
        super(AdamW, self).__init__(params, **hypers)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        delta: float,
        weight_decay: float,
    ) -> None:
        t = state["step"]
        m = kept(state, "m", W).mul_(beta1).add_(G, alpha=1 - beta1)
        v = kept(state, "v", W).mul_(beta2).addcmul_(G, G, value=1 - beta2)
        P = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        bound = delta / W.shape[1] ** 0.5
        for w, g, p in zip(W, G, P, strict=True):
            if torch.cosine_similarity(w, g, dim=0).abs() < bound:
                p -= (w @ p) / (w @ w) * w
        W.mul_(1 - lr * weight_decay).sub_(lr * P)

    def step_rest(self, p: Tensor, g: Tensor, state: State, delta: float, **hypers: Any) -> None:
        step_adamw(p, g, state, **hypers)
