"""C-Muon (arXiv 2411.16085): Muon's step where it agrees with the gradient in sign."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.masked import masked
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz


class CautiousMuon(Muon):
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
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        O = newton_schulz(G.lerp(M, beta) if nesterov else M, steps)
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * masked(O, G)
