"""AdEMAMix (arXiv 2409.03137): AdamW with a second momentum, which forgets very slowly."""

from __future__ import annotations

from math import exp, log
from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


def beta3_at(t: int, beta1: float, beta3: float, warmup: float) -> float:
    """The paper's schedule: from beta1 to beta3 with a half-life that grows linearly."""
    if t >= warmup:
        return beta3
    share = t / warmup
    return exp(log(beta1) * log(beta3) / ((1 - share) * log(beta3) + share * log(beta1)))


class AdEMAMix(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"lr": 3e-2, "beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        "beta3": {"beta3": 0.95},
        "alpha": {"alpha": 1.0},
        "warmup": {"warmup": 30},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        beta3: float = 0.9999,
        alpha: float = 5.0,
        warmup: float = 0,
    ) -> None:
        adam = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **adam, beta3=beta3, alpha=alpha, warmup=warmup)

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
        beta3: float,
        alpha: float,
        warmup: float,
    ) -> None:
        t = state["step"]
        now = beta3_at(t, beta1, beta3, warmup)
        m1 = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        m2 = kept(state, "slow", p).mul_(now).add_(g, alpha=1 - now)
        v = kept(state, "v", p).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        numerator = m1 / (1 - beta1**t) + (min(t * alpha / warmup, alpha) if warmup else alpha) * m2
        p -= lr * (numerator / ((v / (1 - beta2**t)).sqrt() + eps) + weight_decay * p)

    step_matrix = step_rest
