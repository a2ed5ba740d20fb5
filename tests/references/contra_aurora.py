"""Aurora's direction less a part of the momentum, with its length restored."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.aurora import Aurora
from tests.references.polar import spectral_norm


class ContraAurora(Aurora):
    SECOND: ClassVar = {**Aurora.SECOND, "contra": {"contra": 0.8}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.05,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.025,
        steps: int = 12,
        rest_ratio: float = 0.015,
        contra: float = 0.4,
        rest_beta1: float = 0.9,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, contra=contra)

    def direction(self, M: Tensor, *_: Any, steps: int, contra: float, **__: Any) -> Tensor:
        O = super().direction(M, steps=steps)
        D = O - contra / 2 * M / spectral_norm(M)
        return D * (O.norm() / D.norm())
