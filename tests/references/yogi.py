"""Yogi (Zaheer et al., 2018): the second moment moves by (1 - beta2) g^2, up or down."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class Yogi(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "initial": {"initial": 0.1},
        "eps": {"eps": 0.1},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta1: float = 0.9,
        beta2: float = 0.999,
        initial: float = 1e-6,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "initial": initial, "eps": eps}
        super().__init__(params, **hypers, weight_decay=weight_decay)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        initial: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        m = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        v = state.setdefault("v", torch.full_like(p, initial))
        v.sub_((1 - beta2) * (v - g * g).sign() * g * g)
        p.mul_(1 - lr * weight_decay)
        p.addcdiv_(m, v.sqrt() + eps, value=-lr)

    step_matrix = step_rest
