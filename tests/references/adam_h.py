"""AdamH: Adam's direction by Hyperball (arXiv 2606.16899)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.hyperball import step_on_sphere
from tests.references.loop import PerParameter, State, kept


class AdamH(PerParameter):
    """The rest follows AdamW with lr times rest_ratio and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-3},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.8},
        "eps": {"eps": 1e-2},
        "rest_ratio": {"rest_ratio": 0.5},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        rest_ratio: float = 0.05,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, rest_ratio=rest_ratio)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta1: float, beta2: float, eps: float, **_: Any
    ) -> None:
        t = state["step"]
        m = kept(state, "m", G).mul_(beta1).add_(G, alpha=1 - beta1)
        v = kept(state, "v", G).mul_(beta2).addcmul_(G, G, value=1 - beta2)
        U = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        step_on_sphere(W, U, state, lr, "radius")

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        rest_ratio: float,
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, beta1, beta2, eps, weight_decay=0)
