"""The roster of an optimizer: which parameters its groups list, and the slot of each.

Groups are lists and dictionaries that anybody may change between two steps: frameworks replace, resize and flatten
parameters, and append others. A step compares what it finds with what was looked at last; what is new or has changed
is checked as at construction, before the step changes anything. Of states it knows only the shapes of states.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from ..contract.hypers import _check_hypers, _plain
from ..contract.interface import DIMENSIONS, OWN_DIMENSIONS, Rule
from ..placement.fsdp import _require_resharded
from ..placement.layouts import _is_dtensor, _layout_of, _local
from ..placement.local_states import LocalStates, _wrap_entry
from ..placement.slots import LocalSlot, _local_slot
from ..routing.groups import _held
from ..routing.parameters import _require_apart, _require_parameter
from ..routing.places import VIEW_KEYS, Slot, _view_in
from ..routing.readings import Reading, _readings_of
from ..routing.routes import _rule_named
from .crossing import _owners_of
from .noise import Mark
from .states import _is_untouched

NOTHING: Mapping[str, Any] = {}
_State = Mapping[Tensor, Mapping[str, Any]]


def _slot_of(p: Tensor, reading: Reading, rules: Sequence[Rule], name: str, group: Mapping[str, Any] = NOTHING) -> Slot:
    """The slot of p, for which there is a rule; NotImplementedError for a DTensor whose parts the rule cannot take.

    From the hypers of its `group` the size follows of a dimension that the rule declares.
    """
    rule = cast(Rule, _rule_named(rules, reading.role))
    slot = Slot(reading.role, rule, p.shape, p.dtype, p.device, reading.view)
    if rule.rank is not None:
        sizing = tuple([(key, _plain(key, group[key])) for key in _sizing_hypers([rule])])
        slot = replace(slot, sizing=sizing)
    if not _is_dtensor(p):
        return slot
    adds_up = any(kernel.sums for each in rules for kernel in each.kernels)
    return _local_slot(slot, _layout_of(p, name), name, adds_up)


def _mark_of(number: int, slot: Slot) -> Mark:
    if not isinstance(slot, LocalSlot):
        return Mark(number)
    return Mark(number, tuple(slot.whole.shape), slot.layout.first, tuple(slot.shape))


def _sizing_hypers(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The hypers from which the dimensions follow that rules declare."""
    read = {name: None for rule in rules if rule.rank for name in rule.rank.scalars}
    return tuple(name for name in read if name not in (*DIMENSIONS, *OWN_DIMENSIONS))


def _view_of(group: Mapping[str, Any], sizing: Sequence[str]) -> tuple[Any, ...]:
    """What the group says of how its parameters are seen, and of the sizes of what is kept of them.

    ValueError if it does not.
    """
    return tuple(_held(group, ("rule", *VIEW_KEYS, *sizing)).values())


def _name_in(group: Mapping[str, Any], index: int) -> str:
    """What messages call a parameter of the group."""
    names = group.get("param_names", ())
    name = names[index] if len(names) == len(group["params"]) else f"parameter {index} of its group"
    return f"{name} of shape {tuple(group['params'][index].shape)}"


@dataclass(frozen=True)
class _Listing:
    """A group as it was when it was looked at."""

    group: Mapping[str, Any]
    params: tuple[Tensor, ...]
    view: tuple[Any, ...]
    slots: tuple[Slot, ...]
    sizing: tuple[str, ...]  # the hypers that say what sizes states have

    def is_current(self, group: Mapping[str, Any]) -> bool:
        """Whether the group still lists these parameters, and sees them so."""
        if group is not self.group:
            return False
        params = group["params"]
        if not isinstance(params, (list, tuple)) or len(params) != len(self.params):
            return False
        return all(map(operator.is_, params, self.params)) and _view_of(group, self.sizing) == self.view

    def names(self) -> list[str]:
        """What messages call its parameters."""
        return [_name_in(self.group, index) for index in range(len(self.params))]

    def without(self, listed: set[int]) -> list[Slot]:
        """The slots of the parameters that are in no group any more; `listed` are all that are, by identity."""
        return [slot for p, slot in zip(self.params, self.slots, strict=True) if id(p) not in listed]

    def fits(self) -> bool:
        """Whether no parameter has changed its shape, dtype or device since then."""
        return all(map(Slot.fits, self.slots, self.params))


class Roster:
    """The parameters of groups and their slots as they were found at one moment; a roster does not change."""

    def name(self, p: Tensor) -> str:
        """What messages call the parameter, which is one of the roster's."""
        places = ((each.group, i) for each in self.listings for i, other in enumerate(each.params) if other is p)
        return _name_in(*next(places))

    def __init__(self, listings: Sequence[_Listing] = ()) -> None:
        self.listings = tuple(listings)
        self.slots = {p: slot for each in listings for p, slot in zip(each.params, each.slots, strict=True)}
        self.marks = {p: _mark_of(number, slot) for number, (p, slot) in enumerate(self.slots.items())}
        self._has_parts = any(isinstance(slot, LocalSlot) for slot in self.slots.values())

    def seen(self, states: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
        """The states of the parameters as this rank sees them."""
        return LocalStates(states, self.slots) if self._has_parts else states

    def is_current(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the groups list the same, each parameter the same way; what a slot fits is for the step to see."""
        if not isinstance(groups, list) or len(groups) != len(self.listings):
            return False
        return all(map(_Listing.is_current, self.listings, groups))

    def renewed(self, groups: Sequence[dict[str, Any]], owner: type[Any], state: _State) -> Roster:
        """The roster of the groups as they are now.

        Raises:
            ValueError: a parameter is listed twice, shares its memory, or no rule of the class `owner` takes it.
            RuntimeError: it is not what it was routed as, its state does not fit it, or FSDP has made it for a while.
            NotImplementedError: it is sharded in a way in which its rule cannot run.
        """
        listed = [p for group in groups for p in group["params"]]
        if len({id(p) for p in listed}) < len(listed):
            raise ValueError("some parameters appear more than once in the parameter groups")
        _require_unsharded(listed, owner.RULES)
        before = {id(each.group): each for each in self.listings}
        for group in groups:
            _require_view(group)
        readings = _readings_of(groups)
        listings = []
        for group in groups:
            old = before.get(id(group))
            if old is None or not (old.is_current(group) and old.fits()):
                gone = old.without(set(map(id, listed))) if old else []
                old = self._listing(group, old, gone, readings, owner, state)
            listings.append(old)
        _require_apart(map(_local, listed))
        roster = Roster(_fill_in_owners(listings))
        _require_resharded((p for p in listed if p not in self.slots), roster.name)
        return roster

    def _listing(
        self,
        group: Mapping[str, Any],
        old: _Listing | None,
        gone: Sequence[Slot],
        readings: Mapping[Tensor, Reading],
        owner: type[Any],
        state: _State,
    ) -> _Listing:
        """What the group lists, once what is new has been checked; `old` is how it was, `gone` what has left it."""
        sizing = _sizing_hypers(owner.RULES)
        if sizing:  # the sizes of what is kept follow from them
            _check_hypers(owner, _held(group, tuple(inspect.signature(owner.check_hypers).parameters)))
        view = _view_of(group, sizing)
        seen = set(map(id, old.params)) if old is not None and old.view == view else set()
        slots = []
        for index, p in enumerate(group["params"]):
            known, name, reading = self.slots.get(p), _name_in(group, index), readings[p]
            if known is not None and (
                not p.numel() or _is_still(known, p, reading, id(p) in seen, owner.RULES, name, group)
            ):
                slots.append(known)  # as it was, or freed for a while
                continue
            for former in gone if known is None else [known]:
                _require_not_flattened(p, former, group, reading, name, owner.RULES)
            _require_parameter(p, reading.role, reading.view, name, owner)
            slots.append(_slot_of(p, reading, owner.RULES, name, group))
            entry = _wrap_entry(state.get(p, {}), slots[-1])
            if not _is_untouched(entry, (known or slots[-1]).rule):
                _require_fitting_state(slots[-1], known, entry, name)
        return _Listing(group, tuple(group["params"]), view, tuple(slots), sizing)


def _fill_in_owners(listings: Sequence[_Listing]) -> list[_Listing]:
    """The same, in which each slot says who owns its matrices: that depends on all parameters that are listed."""
    owners = _owners_of({p: slot for each in listings for p, slot in zip(each.params, each.slots, strict=True)})

    def owned(p: Tensor, slot: Slot) -> Slot:
        if not isinstance(slot, LocalSlot) or slot.owner == owners.get(p):
            return slot
        return replace(slot, owner=owners.get(p))

    return [replace(each, slots=tuple(map(owned, each.params, each.slots))) for each in listings]


def _require_view(group: dict[str, Any]) -> None:
    """ValueError unless the group says in a valid way how its parameters are seen."""
    _view_of(group, ())
    group["split"] = _view_in(group).split


def _is_still(
    known: Slot,
    p: Tensor,
    reading: Reading,
    is_told_so: bool,
    rules: Sequence[Rule],
    name: str,
    group: Mapping[str, Any],
) -> bool:
    """Whether a parameter is what it was; while its group tells the same, what is beside it does not change that."""
    if is_told_so:
        return known.fits(p)
    return known.rule is _rule_named(rules, reading.role) and known == _slot_of(p, reading, rules, name, group)


def _sees_shapes(rule: Rule) -> bool:
    """Whether anything of the rule depends on which elements of a parameter are there, and in what shape."""
    return rule.step.layout != "elementwise" or any(kernel.sums for kernel in rule.kernels)


def _require_unsharded(params: Sequence[Tensor], rules: Sequence[Rule]) -> None:
    """NotImplementedError if a framework has flattened the parameters, and a rule needs them as they were.

    FSDP1 marks the parameters it has flattened, and DeepSpeed's ZeRO those it has partitioned; without sharding they
    keep their shapes.
    """
    flat = [p for p in params if getattr(p, "_fsdp_flattened", False) or hasattr(p, "ds_shape")]
    needy = [rule for rule in rules if _sees_shapes(rule)]
    if flat and needy and all(p.ndim < 2 for p in flat):
        maker = "FSDP1" if getattr(flat[0], "_fsdp_flattened", False) else "ZeRO-3"
        raise NotImplementedError(
            f"a parameter of shape {tuple(flat[0].shape)} is a flat shard of {maker}: the rule {needy[0].name!r} needs "
            "whole parameters in their shapes. Classes with elementwise rules alone, such as AdamW, can step shards"
        )


def _require_not_flattened(
    p: Tensor, former: Slot, group: Mapping[str, Any], reading: Reading, name: str, rules: Sequence[Rule]
) -> None:
    """RuntimeError if p, once `former` or in its place, has lost rows and columns that the rule needs."""
    if p.ndim >= 2 or len(former.shape) < 2 or former.is_empty:
        return
    is_same = _rule_named(rules, reading.role) is former.rule
    is_whole = former.rule.step.layout == "tensor" and p.numel() == math.prod(former.whole.shape)
    if (_sees_shapes(former.rule) and not is_whole) if is_same else group["rule"] is None:
        shape = tuple(former.whole.shape)
        raise RuntimeError(
            f"{name} stands where the rule {former.rule.name!r} had a parameter of shape {shape}: a flat "
            "shard, as FSDP1 and ZeRO make them, has no rows and columns left. Set the group's rule if it is meant so"
        )


def _require_fitting_state(slot: Slot, known: Slot | None, entry: Mapping[str, Any], name: str) -> None:
    """RuntimeError unless the state of a parameter, if it has any, is one that this slot could have."""
    if slot.is_empty:
        return
    held = {kept: entry[kept.name] for kept in slot.rule.states if isinstance(entry.get(kept.name), Tensor)}
    unfit = [kept for kept, value in held.items() if not slot.may_hold(kept, value)]
    why = ""
    if known is not None and entry and not known.is_empty:
        if known.rule is not slot.rule:
            why = f"it is that of the rule {known.rule.name!r}, and the parameter is now one for {slot.rule.name!r}"
        elif held and known.shape != slot.shape:
            why = f"the parameter had shape {tuple(known.shape)} when it was made"
    if unfit and not why:
        shapes = f"{tuple(held[unfit[0]].shape)}, and {slot.state_shape(unfit[0])} is needed"
        why = f"{unfit[0].name} has shape {shapes}"
    if why:
        raise RuntimeError(
            f"{name} does not fit its state: {why}. Without its entry in optimizer.state the parameter begins anew"
        )
