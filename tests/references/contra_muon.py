"""Contra-Muon: the polar factor less a part of the momentum divided by its spectral norm."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_exact import MuonExact
from tests.references.polar import EXACT, orthogonalize_by, spectral_norm


class ContraMuon(MuonExact):
    SECOND: ClassVar = {**MuonExact.SECOND, "contra": {"contra": 0.8}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 12,
        rest_ratio: float = 0.015,
        contra: float = 0.4,
        rest_beta1: float = 0.9,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, contra=contra)

    def direction(self, M: Tensor, *_: Any, steps: int, contra: float, **__: Any) -> Tensor:
        return orthogonalize_by(M, [EXACT] * steps) - contra / 2 * M / spectral_norm(M)
