"""Aurora's direction by Hyperball (arXiv 2606.16899 on arXiv 2606.27715)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.aurora import Aurora
from tests.references.hyperball import step_on_sphere
from tests.references.loop import State
from tests.references.muon_variant import nesterov_average


class AuroraH(Aurora):
    SECOND: ClassVar = {hyper: changed for hyper, changed in Aurora.SECOND.items() if hyper != "weight_decay"}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        steps: int = 12,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "steps": steps}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, nesterov: bool, steps: int, **_: Any
    ) -> None:
        D = self.direction(nesterov_average(state, G, beta, nesterov), steps=steps)
        step_on_sphere(W, D, state, lr)
