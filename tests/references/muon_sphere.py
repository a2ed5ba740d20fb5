"""MuonSphere (arXiv 2601.08393): weights put on the sphere of spectral norm sqrt(rows / cols), then a step of Muon."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State
from tests.references.muon import Muon
from tests.references.muon_variant import nesterov_average
from tests.references.newton_schulz import newton_schulz
from tests.references.polar import spectral_norm


class MuonSphere(Muon):
    SECOND: ClassVar = {hyper: changed for hyper, changed in Muon.SECOND.items() if hyper != "weight_decay"}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.9,
        nesterov: bool = True,
        steps: int = 5,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"beta": beta, "nesterov": nesterov, "steps": steps}
        super().__init__(params, lr, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, nesterov: bool, steps: int, **_: Any
    ) -> None:
        R = (W.size(0) / W.size(1)) ** 0.5
        W *= R / spectral_norm(W)
        W -= lr * R * newton_schulz(nesterov_average(state, G, beta, nesterov), steps)
