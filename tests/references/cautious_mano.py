"""Cautious Mano (arXiv 2411.16085 on arXiv 2601.23000)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.mano import Mano
from tests.references.masked import masked


class CautiousMano(Mano):
    SECOND: ClassVar = Mano.SECOND

    def direction(self, W: Tensor, G: Tensor, *rest: Any, **hypers: Any) -> Tensor:
        return masked(super().direction(W, G, *rest, **hypers), G)
