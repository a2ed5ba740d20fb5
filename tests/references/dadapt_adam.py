"""D-Adapted Adam (arXiv 2301.07733): Adam's step times an estimate d of the distance to the solution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.references.loop import PerParameter, kept


class DAdaptAdam(PerParameter):
    """The optimizer keeps d and r; its groups have one beta2 and one d0."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.3},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "d0": {"d0": 1e-2},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        d0: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, d0=d0, eps=eps, weight_decay=weight_decay)
        self.d, self.r, self.decay = float(d0), 0.0, beta2**0.5

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        d, inner, length = self.d, 0.0, 0.0
        for group, p, state in self.active():
            rate = group["lr"] * d
            kept(state, "m", p).mul_(group["beta1"]).add_((1 - group["beta1"]) * rate * p.grad)
            kept(state, "v", p).mul_(group["beta2"]).add_((1 - group["beta2"]) * p.grad**2)
            root = state["v"].sqrt() + group["eps"]
            inner += rate * float((p.grad * kept(state, "s", p) / root).sum())
            state["s"] = self.decay * state["s"] + (1 - self.decay) * rate * p.grad
            length += float(state["s"].abs().sum())
            p -= state["m"] / root + rate * group["weight_decay"] * p
        self.r = self.decay * self.r + (1 - self.decay) * inner
        if length > 0:
            self.d = max(d, self.r / ((1 - self.decay) * length))
        for state in self.state.values():
            state["d"], state["r"] = (
                torch.tensor(self.d, dtype=torch.float64),
                torch.tensor(self.r, dtype=torch.float64),
            )
