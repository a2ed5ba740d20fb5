"""MuonEq (arXiv 2603.28254): the rows or columns of the momentum are normalized before it is orthogonalized."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.loop import State, kept
from tests.references.moonlight import Moonlight
from tests.references.muon import Muon
from tests.references.newton_schulz import newton_schulz

# The dimension that each step of a mode sums over.
DIMENSIONS = {"row": (1,), "col": (0,), "both": (1, 0)}


class MuonEq(Moonlight):
    """The rest is Moonlight's."""

    SECOND: ClassVar = {**Moonlight.SECOND, "mode": {"mode": "both"}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        steps: int = 5,
        rest_ratio: float = 1.0,
        mode: str = "row",
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        rest = {"rest_ratio": rest_ratio, "rest_beta1": rest_beta1, "rest_eps": rest_eps}
        super(Muon, self).__init__(params, **hypers, **rest, mode=mode)

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
        X = G.lerp(M, beta) if nesterov else M
        for dim in DIMENSIONS[mode]:
            X = normalize(X, dim=dim, eps=1e-10)
        W *= 1 - lr * weight_decay
        W -= lr * 0.2 * max(W.shape) ** 0.5 * newton_schulz(X, steps)
