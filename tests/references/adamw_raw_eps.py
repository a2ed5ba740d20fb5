"""AdamW with eps added to the root of the second moment before that is corrected for its start."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State, kept


def step_adamw_raw_eps(
    p: Tensor, g: Tensor, state: State, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """p *= 1 - lr wd;  p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)."""
    t = state["step"]
    m = kept(state, "m", p).lerp_(g, 1 - beta1)
    v = kept(state, "v", p).lerp_(g * g, 1 - beta2)
    p *= 1 - lr * weight_decay
    p -= lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t) * m / (eps + v.sqrt())


class AdamWRawEps(AdamW):
    SECOND: ClassVar = AdamW.SECOND

    def step_rest(self, p: Tensor, g: Tensor, state: State, **hypers: Any) -> None:
        step_adamw_raw_eps(p, g, state, **hypers)

    step_matrix = step_rest
