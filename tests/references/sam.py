"""SAM (arXiv 2010.01412) around SGD: the gradient is that of the weights plus rho g / |g|."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.references.sgd import SGD


class SAM(SGD):
    """The tests call `ascend` before some steps only; the others are steps of SGD."""

    SECOND: ClassVar = {**SGD.SECOND, "rho": {"rho": 0.5}}
    EVENTS: ClassVar = {"ascend": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        rho: float = 0.05,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
        for group in self.param_groups:
            group["rho"] = rho

    @torch.no_grad()
    def ascend(self) -> None:
        active = list(self.active())
        norm = sum(p.grad.square().sum() for _, p, _ in active).sqrt()
        for group, p, state in active:
            state["climb"] = group["rho"] * p.grad / norm
            state["climbs"] = state.get("climbs", torch.zeros_like(norm)) + 1
            p += state["climb"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for _, p, state in self.active():
            if state.get("climbs", 0) > state.get("seen", 0):
                p -= state["climb"]
            state["seen"] = state.get("climbs", torch.zeros((), dtype=p.dtype))
        super().step()
