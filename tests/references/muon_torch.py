"""Muon with torch's choice of factors on lr; what torch itself does is in test_torch_agreement.py."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz


class MuonTorch(Muon):
    SECOND: ClassVar = {**Muon.SECOND, "lr": {"lr": 0.02}, "adjust": {"adjust": "match_rms_adamw"}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        steps: int = 5,
        adjust: str = "original",
        rest_ratio: float = 1.0,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        super(Muon, self).__init__(params, **hypers, adjust=adjust, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

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
        adjust: str,
        **_: Any,
    ) -> None:
        rows, cols = W.shape
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        factor = {"original": max(1, rows / cols) ** 0.5, "match_rms_adamw": 0.2 * max(rows, cols) ** 0.5}[adjust]
        W *= 1 - lr * weight_decay
        W -= lr * factor * newton_schulz(G.lerp(M, beta) if nesterov else M, steps)
