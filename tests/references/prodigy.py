"""Prodigy (arXiv 2306.06101): Adam's step times an estimate d of the distance to the solution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.references.loop import PerParameter, kept


class Prodigy(PerParameter):
    """The optimizer keeps d; every parameter has its own r, as those without a gradient take no part in a step."""

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
        self.d = torch.tensor(float(d0), dtype=torch.float64)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        active, d = list(self.active()), self.d
        for _, p, state in active:
            state.setdefault("start", p.clone())
            state.setdefault("r", p.new_zeros(()))
        for group, p, state in active:
            decay = group["beta2"] ** 0.5
            part = (1 - decay) * group["lr"] * d * d
            kept(state, "m", p).mul_(group["beta1"]).add_((1 - group["beta1"]) * d * p.grad)
            kept(state, "v", p).mul_(group["beta2"]).add_((1 - group["beta2"]) * (d * p.grad) ** 2)
            state["r"] = decay * state["r"] + part * (p.grad * (state["start"] - p)).sum()
            state["s"] = decay * kept(state, "s", p) + part * p.grad
        inner = sum(state["r"] for _, _, state in active)
        length = sum(state["s"].abs().sum() for _, _, state in active)
        for group, p, state in active:
            p -= group["lr"] * d * (group["weight_decay"] * p + state["m"] / (state["v"].sqrt() + d * group["eps"]))
        if length > 0:
            self.d = torch.maximum(d, inner / length)
        for state in self.state.values():
            state["d"] = self.d.clone()
