"""Muon squared (arXiv 2604.09967): the momentum is divided by the root of the second moment, then orthogonalized."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz


class MuonSquared(Muon):
    SECOND: ClassVar = {**Muon.SECOND, "beta2": {"beta2": 0.7}, "eps": {"eps": 1e-2}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        beta2: float = 0.95,
        eps: float = 1e-8,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        more = {"rest_ratio": rest_ratio, "beta2": beta2, "eps": eps, "rest_beta1": rest_beta1}
        super(Muon, self).__init__(params, **hypers, **more)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        steps: int,
        beta2: float,
        eps: float,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        V = kept(state, "v", G).mul_(beta2).addcmul_(G, G, value=1 - beta2)
        U = G.lerp(M, beta) if nesterov else M
        W *= 1 - lr * weight_decay
        W -= lr * (W.size(0) / W.size(1)) ** 0.5 * newton_schulz(U * (V + eps).rsqrt(), steps)
