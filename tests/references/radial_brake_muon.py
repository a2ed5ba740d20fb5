"""Muon that goes only part of the way outward."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant
from tests.references.newton_schulz import newton_schulz


class RadialBrakeMuon(MuonVariant):
    SECOND: ClassVar = {**Muon.SECOND, "brake": {"brake": 1.0}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        brake: float = 0.5,
        rest_beta1: float = 0.9,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, brake=brake)

    def direction(self, M: Tensor, W: Tensor, *_: Any, steps: int, brake: float, **__: Any) -> Tensor:
        D = newton_schulz(M, steps)
        radial = (D * W).sum() / (W * W).sum() * W
        goes_outward = (D * W).sum() < 0  # D is subtracted
        return D - brake * radial if goes_outward else D
