"""Muon with You Jiacheng's five polynomials."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant
from tests.references.polar import orthogonalize_by

COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


class MuonYouJiacheng(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 493.0  # the slope of the polynomials at zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return orthogonalize_by(M, COEFFICIENTS)
