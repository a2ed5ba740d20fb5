"""MARS-M (arXiv 2510.21800): Muon on gradients corrected by their last change, with gradients of successive batches."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, State, kept
from tests.references.newton_schulz import newton_schulz
from tests.references.rests import RestByAdamW


class MARSM(RestByAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.02},
        "beta": {"beta": 0.8},
        "gamma": {"gamma": 0.5},
        "weight_decay": {"weight_decay": 0.3},
        "steps": {"steps": 3},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = 2 * NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        beta: float = 0.95,
        gamma: float = 0.025,
        weight_decay: float = 0.01,
        steps: int = 5,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "gamma": gamma, "weight_decay": weight_decay, "steps": steps}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        gamma: float,
        weight_decay: float,
        steps: int,
        **_: Any,
    ) -> None:
        last = state.get("prev_grad", G)
        C = G + gamma * beta / (1 - beta) * (G - last)
        if C.norm() > 1:
            C = C / C.norm()
        M = kept(state, "m", G).mul_(beta).add_(C, alpha=1 - beta)
        W *= 1 - lr * weight_decay
        W -= lr * 0.2 * max(W.shape) ** 0.5 * newton_schulz(M, steps)
        state["prev_grad"] = G.clone()
