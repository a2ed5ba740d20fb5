"""Checkpoints: the groups and states of a saved optimizer, checked against those of the one that loads them.

Takes what `state_dict` gave, gives copies that fit, or a ValueError that names what does not. Changes no optimizer:
what is returned takes effect only when everything else of the checkpoint has been checked as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor

from .computations import _precision_memory
from .places import Slot


def _loaded_groups(
    own: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]], required: Collection[str]
) -> list[dict[str, Any]]:
    """Copies of the saved groups with the parameters of the own ones; ValueError unless they correspond.

    Each saved group must have the `required` keys; that their values are valid is for the caller to check.
    """
    if len(saved) != len(own):
        raise ValueError("loaded state dict has a different number of parameter groups")
    groups = []
    for mine, other in zip(own, saved, strict=True):
        if len(mine["params"]) != len(other["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        for name in required:
            if name not in other:
                raise ValueError(f"loaded state dict has a parameter group without {name!r}")
        group = {**deepcopy({k: v for k, v in other.items() if k != "params"}), "params": mine["params"]}
        if "param_names" in mine:
            group.setdefault("param_names", mine["param_names"])
        groups.append(group)
    return groups


def _loaded_entry(p: Tensor, slot: Slot, precision: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of one parameter's state on its device; ValueError unless it has the memories of its rule."""
    if not entry:
        return {}
    rule = slot.rule
    extra = _precision_memory(precision) if p.dtype.itemsize < 4 else None
    expected = {m.name: slot.state_shape(m) for m in (*rule.memories, *([extra] if extra else []))}
    counters = {"step", *(f"{event.name}_step" for event in rule.events)}
    if lacking := sorted(expected.keys() - entry.keys()):
        raise ValueError(f"loaded state of a {rule.name} parameter lacks {', '.join(lacking)}")
    if unknown := sorted(entry.keys() - expected.keys() - counters):
        raise ValueError(f"loaded state of a {rule.name} parameter has {', '.join(unknown)}, which its rule does not")
    for name, shape in expected.items():
        if tuple(entry[name].shape) != shape:
            raise ValueError(f"loaded state {name} has shape {tuple(entry[name].shape)}, where {shape} is expected")
    return {
        name: value.detach().to(p.device, copy=True) if name in expected else int(value)
        for name, value in entry.items()
    }
