"""Sophia-G in the form of its published code: eps is added, the batch size comes in at the step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.sophia_g import SophiaG


class SophiaGOfficial(SophiaG):
    SECOND: ClassVar = {**SophiaG.SECOND, "batch_size": {"batch_size": 3.0}}
    EVENTS: ClassVar = {"curvature": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        beta1: float = 0.965,
        beta2: float = 0.99,
        rho: float = 0.04,
        eps: float = 1e-15,
        weight_decay: float = 0.1,
        batch_size: float = 5120,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super(SophiaG, self).__init__(params, **hypers, batch_size=batch_size)

    @torch.no_grad()
    def curvature(self) -> None:
        for group, p, state in self.active():
            h = kept(state, "h", p).view_as(p)
            h.mul_(group["beta2"]).addcmul_(p.grad, p.grad, value=1 - group["beta2"])

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        rho: float,
        eps: float,
        weight_decay: float,
        batch_size: float,
    ) -> None:
        m = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        h = kept(state, "h", p).view_as(p)
        ratio = m.abs() / (rho * batch_size * h + eps)
        p.mul_(1 - lr * weight_decay)
        p.addcmul_(m.sign(), ratio.clamp(max=1), value=-lr)

    step_matrix = step_rest
