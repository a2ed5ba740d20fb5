"""Aurora (arXiv 2606.27715): polar factors of a matrix whose longer side is scaled until its rows are equal."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant
from tests.references.polar import EXACT, orthogonalize_by

ROUNDS, DAMPING = 2, 0.5


class Aurora(MuonVariant):
    SECOND: ClassVar = {**Muon.SECOND, "weight_decay": {"weight_decay": 0.2}}
    SENSITIVITY = 2.0**12  # the slope of the polynomials at zero

    def __init__(
        self,
        params: Any,
        lr: float = 0.05,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.025,
        steps: int = 12,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        **own: float,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, **own)

    def direction(self, M: Tensor, *_: Any, steps: int, **__: Any) -> Tensor:
        rows, cols = M.shape
        if rows == cols:
            return orthogonalize_by(M, [EXACT] * steps)
        return equal_rows(M, steps) if rows > cols else equal_rows(M.T, steps).T


def equal_rows(G: Tensor, steps: int) -> Tensor:
    """The squared norm of each of the m rows of a polar factor of rank n should be n / m."""
    target = G.size(1) / G.size(0)
    D = 1 / G.norm(dim=1, keepdim=True)
    for _ in range(ROUNDS - 1):
        U = orthogonalize_by(D * G, [EXACT] * steps)
        D = D * (target / (U * U).sum(1, keepdim=True)) ** DAMPING
    return orthogonalize_by(D * G, [EXACT] * steps)
