"""NAMO (arXiv 2602.17080): orthogonalized momentum times one Adam-like step size per matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class NAMO(PerParameter):
    """The rest follows AdamW with the same lr, beta2 0.95 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-3},
        "mu1": {"mu1": 0.5},
        "mu2": {"mu2": 0.96},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.0},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        mu1: float = 0.95,
        mu2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "mu1": mu1, "mu2": mu2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        mu1: float,
        mu2: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        t = state["step"]
        M = kept(state, "m", G).mul_(mu1).add_(G, alpha=1 - mu1)
        v = kept(state, "v", G.sum()).mul_(mu2).add_(torch.sum(G * G), alpha=1 - mu2)
        alpha = step_size_of_paper(M, v, t, mu1, mu2, eps)
        W -= lr * alpha * (newton_schulz(M) + weight_decay * W)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_beta1: float, rest_eps: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)


def step_size_of_paper(M: Tensor, v: Tensor, t: int, mu1: float, mu2: float, eps: float) -> Tensor:
    """alpha_t exactly as the paper prints it, from the states after step t."""
    return (1 - mu2**t) ** 0.5 / (1 - mu1**t) * M.norm() / (v.sqrt() + eps)
