"""Copies of what parameters share: a shared state is one number, which lies in the state of each of them.

There every checkpoint can hold it, and every tool that reads one. Between two steps all copies are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..contract.interface import Rule, State
from ..routing.places import Slot
from .states import _has_begun

_ReadStates = Mapping[Any, Mapping[str, Any]]  # by parameter


def _shared_of(rule: Rule) -> list[State]:
    """The states that parameters of the rule share."""
    return [kept for kept in rule.states if kept.shared is not None]


def _copies_of(kept: State, rule: Rule, slots: Mapping[Tensor, Slot], state: _ReadStates) -> dict[Tensor, Tensor]:
    """What parameters of the rule have of a state that they share, whether they have begun or not."""
    own = [p for p, slot in slots.items() if slot.rule is rule and p in state]
    return {p: state[p][kept.name] for p in own if kept.name in state[p]}


def _find_copy(kept: State, rule: Rule, slots: Mapping[Tensor, Slot], state: _ReadStates) -> Tensor | None:
    """The copy of a parameter that has begun, of those in the widest dtype; None as long as none has."""
    begun = [x for p, x in _copies_of(kept, rule, slots, state).items() if _has_begun(state[p], rule)]
    return max(begun, key=lambda x: x.dtype.itemsize, default=None)


def _copy_to_all(new: Tensor, copies: Iterable[Tensor]) -> None:
    """Writes the value over every copy, on whatever device it is."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for copy in copies:
        if copy is not new:
            by_device.setdefault(copy.device, []).append(copy)
    value = new.reshape(-1)[0].clone()
    for device, found in by_device.items():
        here = value.to(device)
        torch._foreach_copy_(found, [here.expand(copy.shape) for copy in found])


def _require_equal_copies(slots: Mapping[Tensor, Slot], state: _ReadStates) -> None:
    """ValueError for loaded states that differ where parameters share one."""
    for rule in {id(slot.rule): slot.rule for slot in slots.values()}.values():
        for kept in _shared_of(rule):
            one = _find_copy(kept, rule, slots, state)
            for p, x in _copies_of(kept, rule, slots, state).items():
                if one is not None and not x.is_meta and _has_begun(state[p], rule) and not _holds(x, one):
                    raise ValueError(
                        f"loaded states {kept.name} are {_number(one)} and {_number(x)}, and the parameters of the "
                        f"rule {rule.name!r} share one: give all of them what is right"
                    )


def _holds(copy: Tensor, value: Tensor) -> bool:
    """Whether all of a copy is the value, in its own dtype; NaN is NaN."""
    wanted = value.reshape(-1)[:1].to(copy.device, copy.dtype).expand(copy.numel())
    return torch.equal(copy.reshape(-1).nan_to_num(), wanted.nan_to_num())


def _number(x: Tensor) -> float:
    return float(x.reshape(-1)[0])
