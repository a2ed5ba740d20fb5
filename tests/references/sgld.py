"""SGLD (Welling and Teh, ICML 2011): Langevin dynamics with the gradient of a batch."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.drawing import Drawing, normal
from tests.references.loop import State


class SGLD(Drawing):
    SECOND: ClassVar = {"lr": {"lr": 0.1}, "temperature": {"temperature": 0.1}, "weight_decay": {"weight_decay": 0.5}}

    def __init__(self, params: Any, lr: float = 1e-3, temperature: float = 1, weight_decay: float = 0) -> None:
        super().__init__(params, lr=lr, temperature=temperature, weight_decay=weight_decay)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, temperature: float, weight_decay: float) -> None:
        noise = (2 * lr * temperature) ** 0.5 * normal(state, p)
        p -= lr * (g + weight_decay * p) - noise

    step_matrix = step_rest
