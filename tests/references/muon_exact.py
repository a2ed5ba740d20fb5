"""Muon with twelve steps of the quintic that converges to the polar factor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant
from tests.references.polar import EXACT, orthogonalize_by


class MuonExact(MuonVariant):
    SECOND: ClassVar = Muon.SECOND
    SENSITIVITY = 2.0**12  # the slope of the polynomials at zero

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 12,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        **own: float,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, **own)

    def direction(self, M: Tensor, *_: Any, steps: int, **__: Any) -> Tensor:
        return orthogonalize_by(M, [EXACT] * steps)
