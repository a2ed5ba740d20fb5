"""Schedule-Free AdamW (arXiv 2405.15682): the bias correction is part of the step size, and so of the weights."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.schedule_free_sgd import ScheduleFreeSGD


class ScheduleFreeAdamW(ScheduleFreeSGD):
    SECOND: ClassVar = {**ScheduleFreeSGD.SECOND, "beta2": {"beta2": 0.9}, "eps": {"lr": 3e-2, "eps": 1e-2}}

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        beta1: float = 0.9,
        warmup: float = 0,
        weight_decay: float = 0.0,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "warmup": warmup, "weight_decay": weight_decay}
        super(ScheduleFreeSGD, self).__init__(params, **hypers, beta2=beta2, eps=eps)
        self.mean: dict[Tensor, Tensor] = {}
        self.start()

    def moved(self, g: Tensor, state: State, group: dict[str, Any]) -> tuple[float, Tensor]:
        gamma, _ = super().moved(g, state, group)
        v = kept(state, "v", g).mul_(group["beta2"]).addcmul_(g, g, value=1 - group["beta2"])
        return gamma * (1 - group["beta2"] ** state["step"]) ** 0.5, g / (v.sqrt() + group["eps"])
