"""MARS-AdamW (arXiv 2411.10438), in the variant that keeps the gradient of the last step."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import REST_BETA1, REST_EPS, PerParameter, State, kept


class MARSAdamW(PerParameter):
    """Vectors follow AdamW with the same lr, beta2 0.95 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.9},
        "gamma": {"gamma": 0.2},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        **REST_BETA1,
        **REST_EPS,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        beta1: float = 0.95,
        beta2: float = 0.99,
        gamma: float = 0.025,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        gamma: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        t = state["step"]
        before = state.get("prev_grad", G)
        state["prev_grad"] = G.clone()
        c = G + gamma * beta1 / (1 - beta1) * (G - before)
        if c.norm() > 1:
            c = c / c.norm()
        m = kept(state, "m", G).mul_(beta1).add_(c, alpha=1 - beta1)
        v = kept(state, "v", G).mul_(beta2).addcmul_(c, c, value=1 - beta2)
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        W -= lr * (weight_decay * W + m_hat / (v_hat.sqrt() + eps))

    step_embedding = step_head = step_matrix

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_beta1: float, rest_eps: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)
