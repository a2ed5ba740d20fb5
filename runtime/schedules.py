"""The base of generated schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from .contract.generated import Generated
from .contract.hypers import _as_scalar, _check_hypers


class SpecSchedule(Generated, LRScheduler):
    """Base of generated schedules: the lr of each group is its initial lr times `factor(t, **hypers)`, t = 1, 2, ..."""

    def __init__(self, optimizer: torch.optim.Optimizer, hypers: Mapping[str, Any], *, last_epoch: int = -1) -> None:
        self.hypers = _check_hypers(type(self), hypers)
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def factor(t: int, **hypers: Any) -> float:
        """Overridden by generated classes."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        factor = self.factor(_as_scalar(self.last_epoch + 1), **{n: _as_scalar(x) for n, x in self.hypers.items()})
        return [base * factor for base in self.base_lrs]
