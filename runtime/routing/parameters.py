"""What must hold of parameters and gradients before a step may touch them.

In: parameters, how they are read, and the rules of a class. Out: nothing, or an error that names the
parameter. Hypers are checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..contract.hypers import _suggest
from ..contract.interface import DTYPES, Rule
from .places import View, _places
from .routes import _rule_named


def _require_parameter(p: Tensor, role: str, view: View, name: str, owner: type[Any]) -> None:
    """An error unless some rule of the class `owner` can step p, which has this role and is read so."""
    if p.layout is not torch.strided or p.dtype not in DTYPES:
        raise RuntimeError(f"{name} is {p.dtype} with layout {p.layout}; only dense real parameters work")
    if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise RuntimeError(f"{name} is expanded: several of its elements are one in memory; clone() it before")
    rule = _rule_named(owner.RULES, role)
    if rule is None:
        names = {name for rule in owner.RULES for name in (rule.name, *rule.roles)}
        raise ValueError(f"{owner.__name__} has no rule {role!r} for {name}{_suggest(role, names)}")
    layouts = [kernel.layout for kernel in (rule.step, rule.init, *(e.kernel for e in rule.events)) if kernel]
    if p.ndim < 2 and ("matrix" in layouts or ("matrix" in rule.roles and "vector" not in rule.roles)):
        raise ValueError(f"{name} is not a matrix, as the rule {rule.name!r} needs; set another rule for its group")
    if p.numel():
        _places("matrix", tuple(p.shape), view)


def _require_apart(params: Iterable[Tensor]) -> None:
    """ValueError if two of the tensors start at the same element of memory: a step of one would undo the other's."""
    seen: dict[tuple[int, object], Tensor] = {}
    for p in params:
        other = seen.setdefault((p.untyped_storage()._cdata, p.storage_offset()), p)
        if other is not p and p.numel() and other.numel():
            shapes = f"{tuple(other.shape)} and {tuple(p.shape)}"
            raise ValueError(
                f"two parameters, of shapes {shapes}, share their memory; make them one parameter, or clone() one"
            )


def _has_grad(rule: Rule, p: Tensor) -> bool:
    return p.grad is not None


def _require_gradient(grad: Tensor, shape: torch.Size, device: torch.device) -> None:
    """An error unless a gradient is dense, real, local, and like a parameter of this shape and device."""
    if type(grad) is not Tensor and hasattr(grad, "placements"):
        raise NotImplementedError(
            f"a gradient of shape {tuple(grad.shape)} is a DTensor with placements {grad.placements}, "
            "and its parameter is none"
        )
    if grad.layout is not torch.strided or not grad.is_floating_point():
        raise RuntimeError(
            f"a gradient of shape {tuple(grad.shape)} is {grad.dtype}, {grad.layout}; it must be dense and real"
        )
    if grad.shape != shape or grad.device != device:  # torch compares them only when it is assigned
        raise RuntimeError(
            f"a gradient of shape {tuple(grad.shape)} on {grad.device} is from before its parameter got the shape "
            f"{tuple(shape)} on {device}; set it to None, and compute it again"
        )
