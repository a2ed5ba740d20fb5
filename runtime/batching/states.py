"""States: what they are before the first step, and what must hold of what lies in them at any later one.

A parameter that is to be trained has an entry from the construction of its optimizer on: counts of 0, and states that
are blank, zeros which take up no memory. Who looks at a new optimizer, as a loader of checkpoints does, finds every
name, and need not make a step to see them. First values are computed at the first step, of the weights of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from ..contract.interface import Rule
from ..contract.precision import _States, _states_of
from ..placement.layouts import _local
from ..placement.local_states import _wrap_entry
from ..placement.slots import LocalSlot
from ..routing.places import Slot
from .counters import Counters, _read_count, _require_entries

_AllStates = MutableMapping[Any, Any]  # by parameter


def _counters_of(rule: Rule) -> tuple[str, ...]:
    return ("step", *(f"{event.name}_step" for event in rule.events))


def _begin_states(
    groups: Iterable[Mapping[str, Any]], slots: Mapping[Tensor, Slot], state: _AllStates, counters: Counters
) -> None:
    """Gives every parameter that is to be trained and has no state one in which nothing has been counted."""
    for group in groups:
        for p in group["params"]:
            if p.requires_grad and p in slots and not state.get(p):
                state[p] = _blank_state(p, slots[p], group["precision"], counters)


def _blank_state(p: Tensor, slot: Slot, precision: str, counters: Counters) -> dict[str, Any]:
    entry: dict[str, Any] = {
        kept.name: torch.zeros((), dtype=dtype, device=p.device).expand(slot.state_shape(kept))
        for kept, dtype in _states_in(slot, precision)
    }
    return entry | {counter: counters.begin(counter, p) for counter in _counters_of(slot.rule)}


def _states_in(slot: Slot, precision: str) -> _States:
    """The states of a parameter; one without elements never steps, and has none."""
    return [] if slot.is_empty else _states_of(slot.rule, precision, slot.dtype)


def _has_begun(entry: Mapping[str, Any], rule: Rule) -> bool:
    """Whether a step or an event has been counted in the state."""
    return any(_read_count(counter, entry.get(counter, 0)) for counter in _counters_of(rule))


def _is_blank(x: object) -> bool:
    """Whether these are zeros that take up no memory."""
    return isinstance(x, Tensor) and x.layout is torch.strided and x.numel() > 1 and not any(x.stride())


def _find_given(entry: Mapping[str, Any], rule: Rule, states: _States) -> set[str]:
    """The states that have values; before anything has been counted, zeros are none."""
    names = {kept.name for kept, _ in states if kept.name in entry}
    return names if _has_begun(entry, rule) else {name for name in names if _has_values(entry[name])}


def _is_untouched(entry: Mapping[str, Any], rule: Rule) -> bool:
    """Whether the state is one that no step, event or user has written to: it can be made anew at any time."""
    own = {*_counters_of(rule)}
    return not _has_begun(entry, rule) and not any(_has_values(x) for name, x in entry.items() if name not in own)


def _drop_untouched(slots: Mapping[Tensor, Slot], state: _AllStates) -> None:
    """Drops the states of these parameters that nothing has been written to."""
    for p, slot in slots.items():
        if p in state and _is_untouched(_wrap_entry(state[p], slot), slot.rule):
            del state[p]


def _drop_precision(params: Iterable[Tensor], state: _AllStates) -> None:
    """Drops what a precision kept of the weights, which would be stale if they ever returned to it."""
    for p in params:
        for name in ("kahan", "master"):
            state.get(p, {}).pop(name, None)


def _has_values(x: object) -> bool:
    """Whether this is something else than zeros."""
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        return True
    return not x.is_meta and not _is_blank(x) and bool(x.any())


def _require_states(p: Tensor, slot: Slot, entry: Mapping[str, Any], states: _States) -> None:
    """ValueError unless the states in the entry are what a step of p can go on from."""
    for kept, _ in states:
        if kept.name in entry:
            what = f"state {kept.name!r} of a {slot.rule.name} parameter of shape {tuple(slot.whole.shape)}"
            is_part = slot.state_shape(kept) != slot.whole.state_shape(kept)
            remedy = ", the part that this rank has: load_state_dict() cuts whole states" if is_part else ""
            _require_state(entry[kept.name], what, slot.state_shape(kept), remedy)
            if (device := entry[kept.name].device) != p.device:
                raise ValueError(f"{what} is on {device}, and the parameter on {p.device}; move it there before a step")


def _require_state(x: object, what: str, shape: tuple[int, ...], remedy: str = "") -> None:
    """ValueError, which ends in the remedy, unless x is a dense tensor of floating-point numbers of this shape."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{what} is no tensor, but {x!r}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{what} has shape {tuple(x.shape)}, where {shape} is expected{remedy}")
    if not x.is_floating_point() or x.layout is not torch.strided:
        raise ValueError(f"{what} is {x.dtype} with layout {x.layout}, where dense floating-point numbers are expected")


def _leave_to_owner(slot: Slot, entry: MutableMapping[str, Any]) -> None:
    """Drops what has been put here of states that another rank owns, where it is as well."""
    if not isinstance(slot, LocalSlot) or slot.is_owner:
        return
    for kept in slot.rule.states:
        x = entry.get(kept.name) if kept.name in slot.owned else None
        if isinstance(x, Tensor) and tuple(x.shape) == slot.of.state_shape(kept):
            entry[kept.name] = x[:0].clone()


def _make_states(weight: Tensor, slot: Slot, states: _States) -> dict[str, Tensor]:
    """States of zeros, and a master that is the weight."""
    shapes = [(kept, slot.state_shape(kept), dtype) for kept, dtype in states]
    made = {kept.name: torch.zeros(shape, dtype=dtype, device=weight.device) for kept, shape, dtype in shapes}
    if "master" in made:
        made["master"].copy_(weight)
    return made


def _complete_states(
    groups: Iterable[Mapping[str, Any]], slots: Mapping[Tensor, Slot], state: _AllStates, counters: Counters
) -> None:
    """As `_begin_states`, and what is blank becomes zeros that can be written to as any tensor."""
    groups = list(groups)
    _require_entries(state)
    _begin_states(groups, slots, state, counters)
    for group in groups:
        for p in group["params"]:
            if p in slots and (entry := state.get(p)):
                states = _states_in(slots[p], group["precision"])
                lacking = [each for each in states if each[0].name not in entry or _is_blank(entry[each[0].name])]
                entry.update(_make_states(_local(p), slots[p], lacking))
