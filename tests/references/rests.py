"""What parameters that are no hidden matrices follow, where several references agree on it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import PerParameter, State


class RestByAdamW(PerParameter):
    """AdamW with the same lr, beta2 0.95 and no decay."""

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_beta1: float, rest_eps: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)


class RestByScaledAdamW(PerParameter):
    """AdamW with lr times rest_ratio, beta2 0.95 and no decay."""

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        rest_ratio: float,
        rest_beta1: float,
        rest_eps: float = 1e-10,
        **_: Any,
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)
