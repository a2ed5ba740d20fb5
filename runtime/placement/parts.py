"""Parts: what this rank has of a parameter and its gradient in one step; the one place where DTensors become local."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..routing.parameters import _require_gradient
from ..routing.places import Slot
from .layouts import _is_dtensor, _local
from .slots import LocalSlot


class Part(NamedTuple):
    """What this rank has of a DTensor parameter, and of its gradient if it has one."""

    weight: Tensor
    grad: Tensor | None


def _part_of(p: Tensor, slot: Slot, name: Callable[[Tensor], str]) -> Part | None:
    """The part of a DTensor, None of another parameter; RuntimeError for a gradient that rules cannot read."""
    if not isinstance(slot, LocalSlot):
        if p.grad is not None:
            _require_gradient(p.grad, slot.shape, slot.device)
        return None
    grad = p.grad
    if grad is not None:
        if not _is_dtensor(grad):
            raise RuntimeError(f"{name(p)} is a DTensor, and its gradient of shape {tuple(grad.shape)} is none")
        if not slot.layout.holds(grad):
            raise RuntimeError(
                f"{name(p)} is a DTensor with the placements {slot.layout.placements}, and its gradient has the "
                f"placements {tuple(grad.placements)}: redistribute the gradient before a step"
            )
        grad = _local(grad)
        _require_gradient(grad, _local(p).shape, slot.device)
    return Part(_local(p), grad)
