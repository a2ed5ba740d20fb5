"""C-Lion (arXiv 2411.16085): Lion without the elements of its step that go against the gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tests.references.cautious_adamw import cautious
from tests.references.lion import Lion, step_direction
from tests.references.loop import State


class CautiousLion(Lion):
    SECOND: ClassVar = Lion.SECOND

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, beta1: float, beta2: float, weight_decay: float
    ) -> None:
        p.mul_(1 - lr * weight_decay)
        p.add_(cautious(step_direction(g, state, beta1, beta2), g), alpha=-lr)

    step_matrix = step_rest
