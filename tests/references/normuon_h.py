"""NorMuonH: NorMuon's direction by Hyperball (arXiv 2606.16899)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.hyperball import step_on_sphere
from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class NorMuonH(PerParameter):
    """The rest follows AdamW with lr times rest_ratio, beta2 0.95 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-3},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "eps": {"eps": 1e-2},
        "rest_ratio": {"rest_ratio": 0.5},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta1: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-8,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "rest_ratio": rest_ratio}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta1: float, beta2: float, eps: float, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta1).add_(G, alpha=1 - beta1)
        O = newton_schulz(M)
        v = kept(state, "v", O[:, 0]).mul_(beta2).add_((O * O).mean(1), alpha=1 - beta2)
        step_on_sphere(W, O / (v.sqrt() + eps)[:, None], state, lr)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        rest_ratio: float,
        rest_beta1: float,
        rest_eps: float,
        **_: Any,
    ) -> None:
        step_adamw(p, g, state, lr * rest_ratio, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=0)
