"""Muon+ (arXiv 2602.21545): the rows and columns of Muon's orthogonalized momentum are normalized afterwards."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz

# The dimension that each step of a mode sums over.
DIMENSIONS = {"col": (0,), "row": (1,), "col_row": (0, 1), "row_col": (1, 0)}


class MuonPlus(Muon):
    SECOND: ClassVar = {**Muon.SECOND, "mode": {"mode": "row_col"}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        mode: str = "col_row",
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        super(Muon, self).__init__(params, **hypers, rest_ratio=rest_ratio, mode=mode, rest_beta1=rest_beta1)

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
        mode: str,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        O = newton_schulz(G.lerp(M, beta) if nesterov else M, steps)
        for dim in DIMENSIONS[mode]:
            O = normalize(O, dim=dim, eps=1e-10)
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * O
