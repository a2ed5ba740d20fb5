"""Muon with the exact polar factor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant
from tests.references.polar import polar_factor


class MuonSVD(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 16.0  # singular vectors of values near zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return polar_factor(M)
