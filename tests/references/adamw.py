"""AdamW as torch orders it: decay first, epsilon after the bias correction."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


def step_adamw(
    p: Tensor, g: Tensor, state: State, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """p *= 1 - lr wd;  p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)."""
    t = state["step"]
    m, v = kept(state, "m", p), kept(state, "v", p)
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.mul_(1 - lr * weight_decay)
    denominator = v.sqrt() / (1 - beta2**t) ** 0.5 + eps
    p.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))


class AdamW(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def step_rest(self, p: Tensor, g: Tensor, state: State, **hypers: Any) -> None:
        step_adamw(p, g, state, **hypers)

    step_matrix = step_rest
