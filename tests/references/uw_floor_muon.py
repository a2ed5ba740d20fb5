"""Muon with steps of at least a share of the norm of the weights, and without decay."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State
from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant, nesterov_average, shape_scale
from tests.references.newton_schulz import newton_schulz


class UWFloorMuon(MuonVariant):
    SECOND: ClassVar = {
        **{hyper: changed for hyper, changed in Muon.SECOND.items() if hyper != "weight_decay"},
        "least": {"least": 1.5},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        rest_ratio: float = 0.015,
        least: float = 0.35,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "steps": steps}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, least=least)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        steps: int,
        least: float,
        **_: Any,
    ) -> None:
        U = shape_scale(W) * newton_schulz(nesterov_average(state, G, beta, nesterov), steps)
        ratio = U.norm() / W.norm()
        if ratio < least:
            U *= least / ratio
        W -= lr * U
