"""Conda (arXiv 2509.24218): Adam in the basis of the momentum's singular vectors, those of the shorter side."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import AdamW, step_adamw
from tests.references.loop import State, kept


class Conda(AdamW):
    """The rest follows AdamW with the same hypers."""

    SECOND: ClassVar = AdamW.SECOND
    SENSITIVITY = 256.0  # singular vectors whose values are near each other

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, **hypers: Any) -> None:
        kept(state, "v", G)
        if W.size(0) <= W.size(1):
            step_wide(W, G, state, kept(state, "m", G), state["v"], **hypers)
        else:
            step_wide(W.T, G.T, state, kept(state, "m", G).T, state["v"].T, **hypers)

    def step_rest(self, p: Tensor, g: Tensor, state: State, **hypers: Any) -> None:
        step_adamw(p, g, state, **hypers)


def step_wide(
    W: Tensor,
    G: Tensor,
    state: State,
    m: Tensor,
    v: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """The singular vectors come smallest first; their signs do not matter."""
    t = state["step"]
    m.mul_(beta1).add_(G, alpha=1 - beta1)
    U = torch.linalg.svd(m, full_matrices=False).U.flip(1)
    v.mul_(beta2).add_((U.T @ G) ** 2, alpha=1 - beta2)
    N = (U.T @ m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    W -= lr * (U @ N + weight_decay * W)
