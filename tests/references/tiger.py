"""Tiger (Su, 2023): Signum with other defaults."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.references.signum import Signum


class Tiger(Signum):
    SECOND: ClassVar = Signum.SECOND

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.01, beta: float = 0.965) -> None:
        super().__init__(params, lr, weight_decay, beta)
