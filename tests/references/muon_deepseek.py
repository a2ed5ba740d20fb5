"""Muon with DeepSeek-V4's ten steps: eight of Keller Jordan's quintic, then two of the exact one."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant
from tests.references.polar import orthogonalize_by

COEFFICIENTS = (
    *[(3.4445, -4.7750, 2.0315)] * 8,
    *[(2.0, -1.5, 0.5)] * 2,
)


class MuonDeepSeek(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 7.9e4  # the slope of the polynomials at zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return orthogonalize_by(M, COEFFICIENTS)
