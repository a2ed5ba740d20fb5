"""Adan (arXiv 2208.06677), with m, v and n starting at g, 0 and g^2."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State


class Adan(PerParameter):
    """The betas are the shares that are kept; the paper writes those that are replaced."""

    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.5},
        "beta3": {"beta3": 0.7},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.5},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.98,
        beta2: float = 0.92,
        beta3: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.02,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "beta3": beta3, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        beta3: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        if state["step"] == 1:
            state |= {"m": g.clone(), "v": torch.zeros_like(g), "n": g * g}
        else:
            difference = g - state["prev_grad"]
            state["m"].mul_(beta1).add_(g, alpha=1 - beta1)
            state["v"].mul_(beta2).add_(difference, alpha=1 - beta2)
            state["n"].mul_(beta3).add_((g + beta2 * difference) ** 2, alpha=1 - beta3)
        state["prev_grad"] = g.clone()
        size = lr / (state["n"].sqrt() + eps)
        p.copy_((p - size * (state["m"] + beta2 * state["v"])) / (1 + lr * weight_decay))

    step_matrix = step_rest
