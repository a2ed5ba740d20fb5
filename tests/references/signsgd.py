"""SignSGD (arXiv 1802.04434)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State


class SignSGD(PerParameter):
    SECOND: ClassVar = {"lr": {"lr": 3e-2}, "weight_decay": {"weight_decay": 0.5}}

    def __init__(self, params: Any, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, weight_decay: float) -> None:
        p -= lr * (g.sign() + weight_decay * p)

    step_matrix = step_rest
