"""Muon with the momentum as a sum, M <- beta M + G, and Nesterov's G + beta M."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.muon_variant import shape_scale
from tests.references.newton_schulz import newton_schulz


class MuonHeavyBall(Muon):
    SECOND: ClassVar = Muon.SECOND

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
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G)
        U = G + beta * M if nesterov else M
        W *= 1 - lr * weight_decay
        W -= lr * shape_scale(W) * newton_schulz(U, steps)
