"""Muon with the Chebyshev-optimal polynomials of CANS (arXiv 2506.10935)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant
from tests.references.polar import orthogonalize_by

COEFFICIENTS = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)


class MuonCANS(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 4.9e4  # the slope of the polynomials at 1, where a momentum of rank one is; 1049 at zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return orthogonalize_by(M, COEFFICIENTS)
