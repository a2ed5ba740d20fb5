"""The bases of generated schedules and penalties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from .buckets import _arranged
from .computations import _compute_dtype
from .hypers import _checked_hypers
from .interface import Rule
from .places import Slot
from .routing import _rule_named, route


class SpecSchedule(LRScheduler):
    """Base of generated schedules: the lr of each group is its initial lr times `factor(t, **hypers)`, t = 1, 2, ..."""

    def __init__(self, optimizer: torch.optim.Optimizer, hypers: Mapping[str, Any], *, last_epoch: int = -1) -> None:
        self.hypers = _checked_hypers(type(self), hypers)
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def check_hypers(**hypers: Any) -> None:
        """Overridden by generated classes: calls `require` for each condition of the spec."""

    @staticmethod
    def factor(t: int, **hypers: Any) -> float:
        """Overridden by generated classes."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        factor = self.factor(self.last_epoch + 1, **self.hypers)
        return [base * factor for base in self.base_lrs]


class SpecPenalty(nn.Module):
    """Base of generated penalties: `forward()` is the differentiable sum of the losses of all units that a rule takes.

    Args:
        params: a module (routed by role), tensors or (name, tensor) pairs; what no rule takes is not penalized.
        hypers: the values of the hypers.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()

    def __init__(self, params: Any, hypers: Mapping[str, Any]) -> None:
        super().__init__()
        self.hypers = _checked_hypers(type(self), hypers)
        if isinstance(params, nn.Module):
            routed = [(r.parameter, r.role, r.transposed) for r in route(params)]
        else:
            tensors = [p[1] if isinstance(p, tuple) else p for p in params]
            routed = [(p, "matrix" if p.ndim >= 2 else "vector", False) for p in tensors]
        rules = [(p, _rule_named(self.RULES, role), transposed) for p, role, transposed in routed]
        self._routed = [(p, rule, transposed) for p, rule, transposed in rules if rule is not None and p.numel()]

    @staticmethod
    def check_hypers(**hypers: Any) -> None:
        """Overridden by generated classes: calls `require` for each condition of the spec."""

    def forward(self) -> Tensor:
        """The 0-d penalty of the current weights."""
        batches: dict[tuple[Any, ...], list[tuple[Tensor, Slot]]] = {}
        for p, rule, transposed in self._routed:
            slot = Slot(rule, p.shape, p.dtype, p.device, transposed, None)
            batches.setdefault((rule.name, p.dtype, p.device), []).append((p, slot))
        losses = []
        for slots in batches.values():
            kernel = slots[0][1].rule.step
            for bucket in _arranged(slots, kernel.layout):
                weight = bucket.gather(bucket.params).to(_compute_dtype(slots[0][1].dtype))
                losses.append(kernel.function(weight, **{name: self.hypers[name] for name in kernel.scalars})[0].sum())
        return torch.stack(losses).sum() if losses else torch.zeros(())
