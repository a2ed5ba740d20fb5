"""LARS (arXiv 1708.03888): each parameter has a learning rate that fits its norm."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import PerParameter, State, kept


class LARS(PerParameter):
    SECOND: ClassVar = {
        "lr": {"lr": 1.0},
        "momentum": {"momentum": 0.5},
        "trust": {"trust": 0.1},
        "weight_decay": {"weight_decay": 0.3},
    }

    def __init__(
        self, params: Any, lr: float = 0.1, momentum: float = 0.9, trust: float = 1e-3, weight_decay: float = 5e-4
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, trust=trust, weight_decay=weight_decay)

    def step_rest(
        self, p: Tensor, g: Tensor, state: State, lr: float, momentum: float, trust: float, weight_decay: float
    ) -> None:
        local = 1.0
        if p.norm() > 0 and g.norm() > 0:
            local = trust * p.norm() / (g.norm() + weight_decay * p.norm())
        m = kept(state, "m", p).mul_(momentum).add_(lr * local * (g + weight_decay * p))
        p -= m

    step_matrix = step_rest
