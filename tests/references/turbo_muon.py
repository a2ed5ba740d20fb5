"""Turbo-Muon (arXiv 2512.04632): rows scaled to be almost orthogonal, then four Newton-Schulz steps."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant

COEFFICIENTS = (
    (4.6051, -9.6552, 5.6769),
    (4.7505, -6.0861, 2.1790),
    (2.7763, -2.3190, 0.5523),
    (2.4231, -2.2861, 0.8193),
)


class TurboMuon(MuonVariant):
    SECOND: ClassVar = SECOND_WITHOUT_STEPS
    SENSITIVITY = 147.0  # the slope of the polynomials at zero

    def direction(self, M: Tensor, *_: Any, **__: Any) -> Tensor:
        return turbo(M) if M.size(0) <= M.size(1) else turbo(M.T).T


def turbo(X: Tensor) -> Tensor:
    """A = X Xᵀ is scaled along with X for the first step, not computed again."""
    A = X @ X.T
    s = A.abs().sum(1) ** -0.5
    X, A = s[:, None] * X, s[:, None] * A * s
    for a, b, c in COEFFICIENTS:
        X = a * X + (b * A + c * A @ A) @ X
        A = X @ X.T
    return X
