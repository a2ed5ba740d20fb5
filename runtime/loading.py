"""Checkpoints read by the same or another spec.

Takes what `state_dict` gave, gives copies that fit, or a ValueError that names what does not. Changes no optimizer:
what is returned takes effect only when everything else of the checkpoint has been checked as well.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .batching.copies import _require_equal_copies
from .batching.counters import Counters, _read_count
from .batching.states import _counters_of, _require_state
from .checkpoints import SPEC_KEY, Spec, Was, _Origin, _origin_told_by
from .contract.arguments import _require_kind
from .contract.interface import State
from .contract.precision import _states_of
from .matching import _match
from .past import _apply_past, _commas, _hyper_of, _require_data
from .placement.layouts import _is_dtensor, _local
from .placement.local_states import _wrap_entry
from .placement.slots import LocalSlot
from .routing.groups import _require_groups
from .routing.places import VIEW_KEYS, Slot
from .steps.homes import _send_home, _send_past_home

_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _SavedGroup:
    """A group that was saved, with the parameters of the optimizer, the keys of their states and the spec it is of."""

    group: dict[str, Any]
    keys: list[Any]
    origin: _Origin | None


def _require_form(state_dict: object) -> None:
    """TypeError unless this has the form of a state dict of an optimizer."""
    what, expected = "load_state_dict", "what state_dict() gave, a dictionary with 'state' and 'param_groups'"
    _require_kind(what, state_dict, Mapping, expected)
    parts = cast(Mapping[str, Any], state_dict)
    if lacking := [key for key in ("state", "param_groups") if key not in parts]:
        raise TypeError(f"{what} takes {expected}: {lacking[0]!r} is missing")
    _require_kind(f"{what}: 'state'", parts["state"], Mapping, "a dictionary")
    _require_kind(f"{what}: 'param_groups'", parts["param_groups"], (list, tuple), "a list of dictionaries")
    for group in parts["param_groups"]:
        _require_kind(f"{what}: 'param_groups'", group, Mapping, "a list of dictionaries")
        _require_listed(f"{what}: 'params' of a group", group.get("params"), Hashable, "a list of keys of the state")
        _require_listed(f"{what}: 'param_names' of a group", group.get("param_names", ()), str, "a list of names")


def _require_listed(what: str, given: object, kind: type, expected: str) -> None:
    """TypeError unless this is a list of things of this kind."""
    _require_kind(what, given, (list, tuple), expected)
    for each in cast(Sequence[object], given):
        _require_kind(what, each, kind, expected)


def _copied(group: _Entry) -> dict[str, Any]:
    """A copy of what a group has; TypeError that names what cannot be copied."""
    copies = {}
    for key, value in group.items():
        try:
            copies[key] = deepcopy(value)
        except Exception as problem:
            raise TypeError(f"{key!r} of a group in the loaded state dict cannot be copied: {problem}") from problem
    return copies


def _run_pre_hooks(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What the hooks that users have registered make of it."""
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = pre_hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    return state_dict


class _Reader:
    """Reads one checkpoint for an optimizer of the class `name` with this spec (none: nothing is said or compared).

    `defaults` are the hypers that its constructor was given.
    """

    def __init__(self, name: str, spec: Spec | None, defaults: Mapping[str, Any]) -> None:
        self.name, self.spec, self.defaults = name, spec, defaults
        self.told: dict[_Origin, frozenset[str]] = {}  # the hypers that were made of others
        self.plans: dict[tuple[_Origin, str, str], dict[str, str | Was]] = {}
        self.notices: dict[str, None] = {}

    # -- groups --------------------------------------------------------------------------------------------------------

    def groups(self, own: Sequence[_Entry], saved: Sequence[_Entry]) -> list[_SavedGroup]:
        """The saved groups, with the parameters and in the order of the own ones.

        Raises:
            ValueError: they do not correspond, or their hypers are not those of this spec. That values are valid is
                for the caller to check.
            TypeError: the own groups are none, or something of a saved one cannot be copied.
        """
        _require_groups(own)
        found = []
        for mine, (other, keys) in zip(own, _match(own, saved), strict=True):
            group = {k: v for k, v in other.items() if k not in ("params", SPEC_KEY)}
            origin = _origin_told_by(other[SPEC_KEY]) if SPEC_KEY in other else None
            if origin is not None and self.spec is not None and origin.hash != self.spec.hash:
                self._convert_hypers(group, mine, origin)
            group.setdefault("seed", mine["seed"])  # which checkpoints have not always had
            for name in (*self.defaults, "rule", *VIEW_KEYS, "precision"):
                if name not in group:
                    raise ValueError(f"loaded state dict has a parameter group without {name!r}")
            self._require_finite(group, mine)
            # Torch's checkpoint helpers give names in the order of the checkpoint, whatever that of the parameters.
            kept = {key: mine[key] for key in ("param_names", SPEC_KEY) if key in mine}
            found.append(_SavedGroup({**_copied(group), **kept, "params": mine["params"]}, keys, origin))
        return found

    def _require_finite(self, group: _Entry, mine: _Entry) -> None:
        """ValueError for a hyper that is infinite only in the checkpoint."""
        for name, default in self.defaults.items():
            if _is_infinite(group[name]) and not _is_infinite(mine[name]) and not _is_infinite(default):
                raise ValueError(
                    f"invalid {name}={group[name]!r} in the loaded state dict: it is not finite, and was not so before"
                )

    def _convert_hypers(self, group: dict[str, Any], mine: _Entry, origin: _Origin) -> None:
        """Gives the group the hypers of this spec in place of the origin's."""
        assert self.spec is not None
        old = {name: group[name] for name in origin.hypers if name in group}
        used: set[str] = set()
        made: set[str] = set()
        for was in (each for each in self.spec.was if not each.rule and each.target not in origin.hypers):
            if old.keys() >= {*was.scalars} and was.target not in made:
                group[was.target] = _hyper_of(was, {name: old[name] for name in was.scalars})
                used |= {*was.scalars}
                made.add(was.target)
        self.told[origin] = frozenset(made)
        gone = [name for name in old if name not in self.defaults]
        unknown = [name for name in self.defaults if name not in origin.hypers and name not in group]
        lost = [name for name in gone if name not in used]
        if unknown and lost:
            raise ValueError(
                f"the checkpoint is of another version of the spec of {self.name}: it has the hyperparameters "
                f"{_commas(lost)}, where there are now {_commas(unknown)}; if that is a new name, the spec can say so: "
                f"`hyper {unknown[0]} ... was {lost[0]}`"
            )
        for name in unknown:
            group[name] = mine[name]
            self.notices[f"the checkpoint has no hyperparameter {name}; it keeps {mine[name]!r}"] = None
        for name in gone:
            del group[name]
        for name in lost:
            self.notices[f"the checkpoint's hyperparameter {name}={old[name]!r} does not exist any more"] = None

    # -- states --------------------------------------------------------------------------------------------------------

    def state(
        self,
        saved: Mapping[Any, Any],
        groups: Sequence[_SavedGroup],
        slots: Mapping[Tensor, Slot],
        counters: Counters,
    ) -> defaultdict[Any, Any]:
        """The state by parameter, given what `groups` returned and its slots; what belongs to no parameter stays.

        Warns of what was converted, left out or kept, once all has been found to fit.
        """
        owners = {key: (p, each) for each in groups for key, p in zip(each.keys, each.group["params"], strict=True)}
        known = {owners[key][0]: entry for key, entry in saved.items() if key in owners}
        origins = {p: each.origin for p, each in owners.values()}
        past = _send_past_home(slots, known, {p: self._past_of(slots[p], origins[p], True) for p in known})
        taken = _send_home(slots, known)
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, entry in saved.items():
            if key in owners:
                p, found = owners[key]
                if read := self._entry(p, slots[p], found.group, taken[p], found.origin, past.get(p, {})):
                    own = _counters_of(slots[p].rule)
                    state[p] = {}
                    _wrap_entry(state[p], slots[p]).update(read)
                    state[p] |= {name: counters.begin(name, p, read.get(name, 0)) for name in own}
            else:
                state[key] = entry
        _require_equal_copies(slots, {p: _wrap_entry(state[p], slots[p]) for p in slots if p in state})
        for notice in self.notices:
            warnings.warn(f"{self.name}: {notice}", UserWarning, stacklevel=3)
        return state

    def _past_of(self, slot: Slot, origin: _Origin | None, is_owned: bool) -> tuple[str, ...]:
        """The older states that those are made of which owners have, or those that each rank has its part of."""
        if self.spec is None or origin is None or origin.hash == self.spec.hash:
            return ()
        owned = slot.owned if isinstance(slot, LocalSlot) else ()
        told = [was for was in self.spec.was if was.rule == slot.rule.name and (was.target in owned) is is_owned]
        return tuple(dict.fromkeys(name for was in told for name in was.states))

    def _entry(
        self, p: Tensor, slot: Slot, group: _Entry, entry: object, origin: _Origin | None, past: _Entry
    ) -> dict[str, Any]:
        """A copy of one parameter's state on its device, converted where the spec has changed; counts as numbers.

        `past` are older states in the form of those that owners have. Nothing is to be read in a state in which nothing
        has been counted and all is zero.

        Raises:
            ValueError: it does not have the states of the parameter's rule, or they mean something else.
        """
        if not isinstance(entry, Mapping):
            raise ValueError(f"loaded state of a {slot.rule.name} parameter is no mapping, but {entry!r}")
        counts = {name: _read_count(name, value) for name, value in entry.items() if _is_counter(name)}
        for_owners = past.keys() - {kept.name for kept in slot.rule.states} - {*self._past_of(slot, origin, False)}
        entry = {n: past[n] if n in for_owners else _part_here(value, n, slot) for n, value in entry.items()}
        if _says_nothing(entry, counts):
            return {}
        rule, states = slot.rule, [] if slot.is_empty else _states_of(slot.rule, group["precision"], p.dtype)
        if self.spec is not None and (origin is None or origin.hash != self.spec.hash):
            entry = self._converted({**entry, **counts}, p, slot, group, origin, past)
        expected, counters = {kept.name for kept, _ in states}, _counters_of(rule)
        if lacking := sorted({*expected, "step"} - entry.keys()):
            raise ValueError(f"loaded state of a {rule.name} parameter lacks {', '.join(lacking)}")
        if unknown := sorted(entry.keys() - expected - {*counters}):
            raise ValueError(
                f"loaded state of a {rule.name} parameter has {', '.join(unknown)}, which its rule does not"
            )
        for kept, _ in states:
            _require_data(entry[kept.name], f"loaded state {kept.name}", slot.state_shape(kept), p)
        read = {m.name: entry[m.name].detach().to(p.device, dtype, copy=True).contiguous() for m, dtype in states}
        return read | counts

    def _converted(
        self, entry: _Entry, p: Tensor, slot: Slot, group: _Entry, origin: _Origin | None, past: _Entry
    ) -> dict[str, Any]:
        """The entry with the states of this spec in place of those of the origin."""
        rule = slot.rule
        if origin is None:
            held = [name for name in entry if not _is_common(name)]
            if held or rule.states:
                raise ValueError(_explain_lack(self.name, held))
            return {**entry}
        before = origin.rule(slot.role)
        if before is None:
            raise ValueError(f"the spec of the checkpoint has no rule for {slot.role} parameters")
        if (origin, before, rule.name) not in self.plans:
            self.plans[origin, before, rule.name] = self._plan(origin, before, rule.name)
        plan = self.plans[origin, before, rule.name]
        converted = {name: value for name, value in entry.items() if name not in origin.states[before]}
        for kept in rule.states:
            source = plan[kept.name]
            if isinstance(source, str):
                converted |= {source: entry[source]} if source in entry else {}
            elif entry.keys() >= {*source.states}:
                read = {**entry, **past} if isinstance(slot, LocalSlot) and kept.name in slot.owned else entry
                converted[kept.name] = _apply_past(source, read, group, p, slot.state_shape(kept))
                origins = _commas(source.states) or "a constant"
                self.notices[f"{kept.name} of the rule {rule.name!r} was made of the checkpoint's {origins}"] = None
        return converted

    def _plan(self, origin: _Origin, before: str, name: str) -> dict[str, str | Was]:
        """Where each state of the rule comes from; ValueError that names all that the spec does not explain."""
        assert self.spec is not None
        old = origin.states[before]
        new = self.spec.means(name, self.told.get(origin, frozenset()))
        plan: dict[str, str | Was] = {}
        for kept, (mark, _) in new.items():
            told = [w for w in self.spec.was if (w.rule, w.target) == (name, kept) and old.keys() >= {*w.states}]
            if kept in old and old[kept][0] == mark:
                plan[kept] = kept
            elif told:
                plan[kept] = told[0]
        read = {each for source in plan.values() for each in ([source] if isinstance(source, str) else source.states)}
        changes = _changes(old, new, plan, read)
        if changes:
            raise ValueError(
                f"the checkpoint is of another version of the spec of {self.name} ({origin.hash}, now "
                f"{self.spec.hash}), and the states of its rule {name!r} do not mean the same:"
                + "".join(f"\n  {change}" for change in changes)
            )
        return plan


_Told = Mapping[str, tuple[str, str]]


def _changes(old: _Told, new: _Told, plan: Mapping[str, str | Was], read: Iterable[str]) -> list[str]:
    """A line for each state of either spec that nothing has been made of."""
    lines = []
    gone = {name: mark for name, (mark, _) in old.items() if name not in read}
    for name, (mark, equation) in new.items():
        if name in plan:
            continue
        if name in gone:
            del gone[name]
            was = old[name][1]
            tail = "" if was != equation else " (what it reads has changed)"
            lines.append(f"{name} has changed: it was `{was}`, and is `{equation}`{tail}")
            continue
        same = [other for other, its in gone.items() if its == mark]
        hint = f"; it means what {same[0]} was: if it is that, the spec can say `{name} was {same[0]}`" if same else ""
        lines.append(f"{name} is new: `{equation}`{hint}")
    return [*lines, *(f"{name} is gone: it was `{old[name][1]}`" for name in gone)]


def _is_counter(name: object) -> bool:
    return isinstance(name, str) and (name == "step" or name.endswith("_step"))


def _is_infinite(value: object) -> bool:
    plain = value.item() if isinstance(value, Tensor) and not value.ndim else value
    return isinstance(plain, float) and math.isinf(plain)


def _says_nothing(entry: _Entry, counts: Mapping[str, int]) -> bool:
    """Whether nothing has been counted, and all states are zero: a parameter that has not been trained."""
    states = [value for name, value in entry.items() if name not in counts]
    are_tensors = all(isinstance(value, Tensor) for value in states)
    return not any(counts.values()) and are_tensors and not any(x.is_meta or bool(x.any()) for x in states)


def _part_here(value: Any, name: str, slot: Slot) -> Any:
    """What this rank needs of a loaded value: of a state of all of a sharded parameter, the part that is here.

    Raises:
        ValueError: it is a DTensor that lies otherwise than the state does.
    """
    if not isinstance(value, Tensor):
        return value
    kept = slot.declared(name)
    is_dense = not _is_dtensor(value) and value.layout is torch.strided
    if kept is not None and is_dense and tuple(value.shape) == slot.whole.shape_by_parts(kept):
        value = value.reshape(slot.whole.state_shape(kept))  # by row, where older versions had it by part
    is_local = isinstance(slot, LocalSlot)
    if is_local and kept is None and value.shape == slot.whole.shape:
        kept = State(name)  # one that there was once
    if not _is_dtensor(value):
        if not isinstance(slot, LocalSlot) or kept is None:
            return value
        if slot.may_hold(kept, value) and name in slot.owned:
            return slot.cut(kept, value)  # of others as well, but this is what has been sent to owners
        _require_state(value, f"loaded state {name}", slot.whole.state_shape(kept))
        return slot.cut(kept, value)
    if not isinstance(slot, LocalSlot) or kept is None or not slot.holds(kept, value):
        raise ValueError(
            f"loaded state {name} of a parameter of shape {tuple(slot.whole.shape)} is a DTensor that does not lie as "
            "the parameter does: torch.distributed.checkpoint.state_dict.set_optimizer_state_dict loads it, from a "
            "checkpoint that was read into what get_optimizer_state_dict gave of this optimizer, or from full tensors"
        )
    _require_state(value, f"loaded state {name}", slot.whole.state_shape(kept))
    return _local(value)


def _is_common(name: str) -> bool:
    """Whether every spec could have this in its state: a counter, or what a precision needs."""
    return _is_counter(name) or name in ("kahan", "master")


def _explain_lack(name: str, held: Sequence[str]) -> str:
    return (
        f"the loaded state dict does not say of which spec its states ({_commas(held) or 'none'}) are: another class "
        f"or an older {name} wrote it. If they are those of this spec, give its groups what "
        f'`state_dict()["param_groups"]` of a new {name} has under {SPEC_KEY!r}, and load it again'
    )
