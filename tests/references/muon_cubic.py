"""Muon with five cubic polynomials (arXiv 2606.00371)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant
from tests.references.polar import orthogonalize_by

COEFFICIENTS = (
    (3.3656576, -3.3420992, 0.0),
    (2.5744352, -1.4957376, 0.0),
    (2.5368962, -1.4312570, 0.0),
    (2.4418906, -1.2764040, 0.0),
    (2.2230472, -0.9630650, 0.0),
)


class MuonCubic(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 119.0  # the slope of the polynomials at zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return orthogonalize_by(M, COEFFICIENTS)
