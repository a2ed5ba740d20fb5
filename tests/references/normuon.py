"""NorMuon (arXiv 2510.05491): Muon with its rows brought to equal size, and steps whose root mean square is 0.2 lr."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class NorMuon(PerParameter):
    """The rest follows AdamW with the same lr, beta2 0.95 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 2e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.0},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 3.6e-4,
        beta1: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).mul_(beta1).add_(G, alpha=1 - beta1)
        O = newton_schulz(M)
        v = kept(state, "v", O[:, 0]).mul_(beta2).add_((O * O).mean(1), alpha=1 - beta2)
        O_hat = O / (v.sqrt() + eps)[:, None]
        eta = 0.2 * lr * W.numel() ** 0.5 / O_hat.norm().clamp(min=1e-10)  # a gradient of zero makes no step
        W -= lr * weight_decay * W + eta * O_hat

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, rest_beta1: float, rest_eps: float, **_: Any
    ) -> None:
        step_adamw(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)
