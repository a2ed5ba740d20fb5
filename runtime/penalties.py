"""The base of generated penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .batching.buckets import _arrange
from .batching.parameter_batch import Scalars
from .batching.roster import _slot_of
from .contract.generated import Generated
from .contract.hypers import _as_scalar, _check_hypers, _suggest
from .contract.interface import Rule
from .contract.precision import _compute_dtype
from .placement.layouts import _is_dtensor
from .routing.groups import DEFAULTS, _copy_group, _read_groups
from .routing.parameters import _require_parameter
from .routing.places import Slot
from .routing.readings import _readings_of, _warn_of_guesses
from .routing.routes import _rule_named


class SpecPenalty(Generated, nn.Module):
    """Base of generated penalties: `forward()` is the differentiable sum of the losses of all units that a rule takes.

    Args:
        params: a module, (name, tensor) pairs, tensors, or groups of these that may set `rule`, `transposed`, `split`
            and `batch`, as optimizers take them; what no rule takes is not penalized.
        hypers: the values of the hypers.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()

    def __init__(self, params: Any, hypers: Mapping[str, Any]) -> None:
        super().__init__()
        self.hypers = _check_hypers(type(self), hypers)
        groups = _groups_of(type(self), params)
        readings = _readings_of(groups)
        taken = [(p, r) for p, r in readings.items() if _rule_named(self.RULES, r.role) and p.numel()]
        for p, reading in taken:
            if _is_dtensor(p):
                raise NotImplementedError(f"{_name_shape(p)} is a DTensor, and penalties are of whole tensors alone")
            _require_parameter(p, reading.role, reading.view, _name_shape(p), type(self))
        self._slots = [(p, _slot_of(p, reading, self.RULES, _name_shape(p))) for p, reading in taken]
        _warn_of_guesses(type(self), groups)

    def forward(self) -> Tensor:
        """The 0-d penalty of the current weights."""
        batches: dict[tuple[Any, ...], list[tuple[Tensor, Slot]]] = {}
        for p, known in self._slots:
            slot = known if known.fits(p) else replace(known, shape=p.shape, dtype=p.dtype, device=p.device)
            batches.setdefault((slot.rule.name, p.dtype, p.device), []).append((p, slot))
        losses = []
        for slots in batches.values():
            kernel = slots[0][1].rule.step
            scalars = Scalars({name: _as_scalar(value) for name, value in self.hypers.items()}, {}, {})
            for bucket in _arrange(slots, kernel.layout):
                weight = bucket.gather(bucket.params).to(_compute_dtype(slots[0][1].dtype))
                given = scalars.sized(kernel, bucket.sizes).all
                losses.append(kernel.function(weight, **{name: given[name] for name in kernel.scalars})[0].sum())
        return torch.stack(losses).sum() if losses else torch.zeros(())


def _name_shape(p: Tensor) -> str:
    return f"a parameter of shape {tuple(p.shape)}"


def _groups_of(owner: type[Any], params: Any) -> list[dict[str, Any]]:
    """The groups that an optimizer would make of what it is given."""
    given = _read_groups(owner, params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [_group_of(group) for group in groups]


def _group_of(given: Mapping[str, Any]) -> dict[str, Any]:
    group = {**DEFAULTS, **_copy_group(given)}
    known = ("params", "param_names", *DEFAULTS)
    for key in group:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in a parameter group{_suggest(key, known)}")
    if len({isinstance(member, tuple) for member in group["params"]}) > 1:
        raise ValueError("in a parameter group of a penalty either all tensors have a name or none")
    if isinstance(next(iter(group["params"]), None), tuple):
        group["param_names"], group["params"] = map(list, zip(*group["params"], strict=True))
    return group
