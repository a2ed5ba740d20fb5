"""Contra-Muon with the length of the polar factor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.contra_muon import ContraMuon
from tests.references.polar import EXACT, orthogonalize_by


class ContraMuonRestored(ContraMuon):
    SECOND: ClassVar = ContraMuon.SECOND

    def direction(self, M: Tensor, *_: Any, steps: int, contra: float, **__: Any) -> Tensor:
        D = super().direction(M, steps=steps, contra=contra)
        return D * (orthogonalize_by(M, [EXACT] * steps).norm() / D.norm())
