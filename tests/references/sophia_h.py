"""Sophia-H (arXiv 2305.14342): Sophia with Hutchinson's estimate of the Hessian's diagonal."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tests.references.loop import kept
from tests.references.sophia_g import SophiaG


class SophiaH(SophiaG):
    SECOND: ClassVar = {**SophiaG.SECOND, "rho": {"rho": 0.5}}
    EVENTS: ClassVar = {"curvature": {}}
    SENSITIVITY = 16.0  # estimates of both signs, whose average may be small beside them, divide the momentum

    def __init__(
        self,
        params: Any,
        lr: float = 6e-4,
        beta1: float = 0.96,
        beta2: float = 0.99,
        rho: float = 0.01,
        eps: float = 1e-12,
        weight_decay: float = 0.2,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, rho, eps, weight_decay)

    @torch.no_grad()
    def curvature(self) -> None:
        """What stands in the gradients is the estimate, u * (H u)."""
        for group, p, state in self.active():
            kept(state, "h", p).view_as(p).lerp_(p.grad, 1 - group["beta2"])
