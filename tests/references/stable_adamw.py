"""StableAdamW (arXiv 2304.13013): the size of a step is divided by how far gradients exceed their moments."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State


class StableAdamW(AdamW):
    """With the paper's averages, which need no bias correction as their decay grows to beta with the steps."""

    SECOND: ClassVar = {**AdamW.SECOND, "beta1": {"lr": 3e-2, "beta1": 0.5}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay)
        self.averages: dict[Tensor, tuple[Tensor, Tensor]] = {}

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
        beta1_hat = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        beta2_hat = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        v = state["average"][0] if t > 1 else 0 * g
        u = state["average"][1] if t > 1 else 0 * g
        v = beta1_hat * v + (1 - beta1_hat) * g
        u = beta2_hat * u + (1 - beta2_hat) * g * g
        state["average"] = (v, u)
        state["m"], state["v"] = v * (1 - beta1**t), u * (1 - beta2**t)
        rms = (g * g / torch.clamp(u, min=eps**2)).mean().sqrt()
        eta = lr / max(1.0, float(rms))
        p -= eta * weight_decay * p
        p -= eta * v / (u.sqrt() + eps)

    step_matrix = step_rest
