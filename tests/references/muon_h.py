"""MuonH: Muon's direction by Hyperball (arXiv 2606.16899)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.hyperball import step_on_sphere
from tests.references.loop import State
from tests.references.muon import Muon
from tests.references.muon_variant import nesterov_average
from tests.references.newton_schulz import newton_schulz


class MuonH(Muon):
    """No decay: the norm of the weights stays."""

    SECOND: ClassVar = {hyper: changed for hyper, changed in Muon.SECOND.items() if hyper != "weight_decay"}

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, nesterov: bool, steps: int, **_: Any
    ) -> None:
        U = newton_schulz(nesterov_average(state, G, beta, nesterov), steps)
        step_on_sphere(W, U, state, lr)
