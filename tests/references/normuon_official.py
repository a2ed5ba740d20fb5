"""NorMuon as in its official code: Nesterov, rows brought to equal size, the norm of before restored, Muon's factor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, State, kept
from tests.references.newton_schulz import newton_schulz
from tests.references.rests import RestByScaledAdamW


class NorMuonOfficial(RestByScaledAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        "nesterov": {"nesterov": False},
        "rest_ratio": {"rest_ratio": 0.5},
        **REST_BETA1,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta1: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, nesterov=nesterov, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

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
        nesterov: bool,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta1)
        O = newton_schulz(G.lerp(M, beta1) if nesterov else M)
        before = O.norm()
        v = kept(state, "v", O[:, :1]).lerp_((O * O).mean(-1, keepdim=True), 1 - beta2)
        O = O * (1 / (v.sqrt() + eps))
        O = O * (before / (O.norm() + eps))
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * O
