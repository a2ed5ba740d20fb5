"""Unconstrained Scion (arXiv 2502.07529): Scion's points are directions, and the weights are not pulled back."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tests.references.scion import Scion


class UnconstrainedScion(Scion):
    SECOND: ClassVar = Scion.SECOND

    def move(self, W: Tensor, lr: float, target: Tensor) -> None:
        W.add_(target, alpha=lr)
