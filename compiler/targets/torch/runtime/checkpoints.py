"""Checkpoints: what `state_dict` says of the spec it comes from, and how it is read by the same or another spec.

Takes what `state_dict` gave, gives copies that fit, or a ValueError that names what does not. Changes no optimizer:
what is returned takes effect only when everything else of the checkpoint has been checked as well.

Each saved group has the key "spec": a string in JSON, which every tool that saves groups keeps. It holds the version of
this format, the hash of the spec, the names of its hypers and, for each rule, its roles and the fingerprint and the
equation of each memory. Memories of equal fingerprint mean the same.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .computations import _compute_dtype, _precision_memory
from .interface import Rule
from .parameters import _role_in
from .places import Slot

SPEC_KEY = "spec"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Was:
    """`target` of a rule (or a hyper, where `rule` is "") as a function of an older checkpoint.

    `function(*memories, **scalars)` gets the old memories of these names; for a memory the scalars are today's hypers
    and `t`, for a hyper they are the old hypers.
    """

    rule: str
    target: str
    function: Callable[..., Any]
    memories: tuple[str, ...]
    scalars: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """What the checkpoints of a generated class say of its spec.

    `memories` has, for each rule and each of its memories, the fingerprint of what it means and its equation, in parts.
    """

    hash: str
    memories: Mapping[str, Mapping[str, tuple[str, ...]]]
    was: tuple[Was, ...] = ()


@dataclass(frozen=True)
class _Origin:
    """The spec of a checkpoint; for each rule its roles, and the fingerprint and equation of each memory."""

    hash: str
    hypers: tuple[str, ...]
    roles: dict[str, tuple[str, ...]] = field(compare=False)
    memories: dict[str, dict[str, tuple[str, str]]] = field(compare=False)

    def rule(self, role: str) -> str | None:
        """The name of the rule that a parameter of this role (or with this rule) had."""
        if role in self.roles:
            return role
        return next((name for name, roles in self.roles.items() if role in roles), None)


def _describe(groups: Iterable[dict[str, Any]], spec: Spec, rules: Sequence[Rule], hypers: Sequence[str]) -> None:
    """Gives the groups of a state dict what they say under `SPEC_KEY`; read by `_origin_of`."""
    described = {
        rule.name: {
            "roles": rule.roles,
            "memories": {name: [mark, " ".join(parts)] for name, (mark, *parts) in spec.memories[rule.name].items()},
        }
        for rule in rules
    }
    text = json.dumps({"version": SCHEMA_VERSION, "hash": spec.hash, "hypers": list(hypers), "rules": described})
    for group in groups:
        group[SPEC_KEY] = text


@lru_cache(maxsize=64)
def _origin_of(text: str) -> _Origin:
    """The spec that a group describes; ValueError for a description that is damaged or of a newer version."""
    try:
        told = json.loads(text)
        version = told["version"]
        if version == SCHEMA_VERSION:
            roles = {name: tuple(rule["roles"]) for name, rule in told["rules"].items()}
            memories = {
                name: {memory: (str(mark), str(equation)) for memory, (mark, equation) in rule["memories"].items()}
                for name, rule in told["rules"].items()
            }
            return _Origin(str(told["hash"]), tuple(told["hypers"]), roles, memories)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"the description of the spec in the loaded state dict is damaged: {error!r}") from error
    raise ValueError(
        f"the loaded state dict has version {version!r} of the checkpoint format; {SCHEMA_VERSION} is known"
    )


# -- groups ------------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads one checkpoint for an optimizer of the class `name` with this spec (none: nothing is said or compared)."""

    def __init__(self, name: str, spec: Spec | None, hypers: Sequence[str]) -> None:
        self.name, self.spec, self.hypers = name, spec, tuple(hypers)
        self.plans: dict[tuple[_Origin, str, str], dict[str, str | Was]] = {}
        self.notices: dict[str, None] = {}

    def groups(
        self, own: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[_Origin | None]]:
        """Copies of the saved groups with the parameters of the own ones, and the spec each comes from.

        Raises:
            ValueError: they do not correspond, or their hypers are not those of this spec. That values are valid is
                for the caller to check.
        """
        if len(saved) != len(own):
            raise ValueError("loaded state dict has a different number of parameter groups")
        groups, origins = [], []
        for mine, other in zip(own, saved, strict=True):
            if len(mine["params"]) != len(other["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
                )
            group = {k: v for k, v in other.items() if k not in ("params", SPEC_KEY)}
            origin = _origin_of(other[SPEC_KEY]) if SPEC_KEY in other else None
            if origin is not None and self.spec is not None and origin.hash != self.spec.hash:
                self._convert_hypers(group, mine, origin)
            for name in (*self.hypers, "rule", "transposed", "split", "precision"):
                if name not in group:
                    raise ValueError(f"loaded state dict has a parameter group without {name!r}")
            group = {**deepcopy(group), "params": mine["params"]}
            if "param_names" in mine:
                group.setdefault("param_names", mine["param_names"])
            groups.append(group)
            origins.append(origin)
        return groups, origins

    def _convert_hypers(self, group: dict[str, Any], mine: Mapping[str, Any], origin: _Origin) -> None:
        """Gives the group the hypers of this spec in place of the origin's."""
        assert self.spec is not None
        old = {name: group[name] for name in origin.hypers if name in group}
        used: set[str] = set()
        for was in (each for each in self.spec.was if not each.rule and each.target not in origin.hypers):
            if old.keys() >= {*was.scalars}:
                group[was.target] = was.function(**{name: old[name] for name in was.scalars})
                used |= {*was.scalars}
        gone = [name for name in old if name not in self.hypers]
        unknown = [name for name in self.hypers if name not in origin.hypers and name not in group]
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
        saved: Mapping[str, Any],
        groups: Sequence[dict[str, Any]],
        origins: Sequence[_Origin | None],
        slots: Mapping[Tensor, Slot],
    ) -> defaultdict[Any, Any]:
        """The state by parameter, given what `groups` returned and its slots; what belongs to no parameter stays.

        Warns of what was converted, left out or kept, once all has been found to fit.
        """
        ids = chain.from_iterable(group["params"] for group in saved["param_groups"])
        places = ((p, g, origin) for g, origin in zip(groups, origins, strict=True) for p in g["params"])
        owners = dict(zip(ids, places, strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, entry in saved["state"].items():
            if key in owners:
                p, group, origin = owners[key]
                state[p] = self._entry(p, slots[p], group, entry, origin)
            else:
                state[key] = entry
        for notice in self.notices:
            warnings.warn(f"{self.name}: {notice}", UserWarning, stacklevel=3)
        return state

    def _entry(
        self, p: Tensor, slot: Slot, group: Mapping[str, Any], entry: Mapping[str, Any], origin: _Origin | None
    ) -> dict[str, Any]:
        """A copy of one parameter's state on its device, converted where the spec has changed.

        Raises:
            ValueError: it does not have the memories of the parameter's rule, or they mean something else.
        """
        if not entry:
            return {}
        rule = slot.rule
        extra = _precision_memory(group["precision"]) if p.dtype.itemsize < 4 else None
        expected = {m.name: slot.state_shape(m) for m in (*rule.memories, *([extra] if extra else []))}
        counters = {"step", *(f"{event.name}_step" for event in rule.events)}
        if self.spec is not None and (origin is None or origin.hash != self.spec.hash):
            entry = self._converted(entry, p, slot, group, origin)
        if lacking := sorted(expected.keys() - entry.keys()):
            raise ValueError(f"loaded state of a {rule.name} parameter lacks {', '.join(lacking)}")
        if unknown := sorted(entry.keys() - expected.keys() - counters):
            raise ValueError(
                f"loaded state of a {rule.name} parameter has {', '.join(unknown)}, which its rule does not"
            )
        for name, shape in expected.items():
            if tuple(entry[name].shape) != shape:
                raise ValueError(f"loaded state {name} has shape {tuple(entry[name].shape)}, where {shape} is expected")
        return {
            name: value.detach().to(p.device, copy=True) if name in expected else int(value)
            for name, value in entry.items()
        }

    def _converted(
        self, entry: Mapping[str, Any], p: Tensor, slot: Slot, group: Mapping[str, Any], origin: _Origin | None
    ) -> Mapping[str, Any]:
        """The state with the memories of this spec in place of those of the origin."""
        rule = slot.rule
        if origin is None:
            held = [name for name in entry if not _is_common(name)]
            if held or rule.memories:
                raise ValueError(_undescribed(self.name, held))
            return entry
        role = _role_in(group, p)
        before = origin.rule(role)
        if before is None:
            raise ValueError(f"the spec of the checkpoint has no rule for {role} parameters")
        if (origin, before, rule.name) not in self.plans:
            self.plans[origin, before, rule.name] = self._plan(origin, before, rule.name)
        plan = self.plans[origin, before, rule.name]
        converted = {name: value for name, value in entry.items() if name not in origin.memories[before]}
        for memory in rule.memories:
            source = plan[memory.name]
            if isinstance(source, str):
                converted |= {source: entry[source]} if source in entry else {}
            elif entry.keys() >= {*source.memories}:
                converted[memory.name] = _applied(source, entry, group, p, slot.state_shape(memory))
                origins = _commas(source.memories) or "a constant"
                self.notices[f"{memory.name} of the rule {rule.name!r} was made of the checkpoint's {origins}"] = None
        return converted

    def _plan(self, origin: _Origin, before: str, name: str) -> dict[str, str | Was]:
        """Where each memory of the rule comes from; ValueError that names all that the spec does not explain."""
        assert self.spec is not None
        old = origin.memories[before]
        new = {memory: (mark, " ".join(parts)) for memory, (mark, *parts) in self.spec.memories[name].items()}
        plan: dict[str, str | Was] = {}
        for memory, (mark, _) in new.items():
            told = [w for w in self.spec.was if (w.rule, w.target) == (name, memory) and old.keys() >= {*w.memories}]
            if memory in old and old[memory][0] == mark:
                plan[memory] = memory
            elif told:
                plan[memory] = told[0]
        read = {each for source in plan.values() for each in ([source] if isinstance(source, str) else source.memories)}
        changes = _changes(old, new, plan, read)
        if changes:
            raise ValueError(
                f"the checkpoint is of another version of the spec of {self.name} ({origin.hash}, now "
                f"{self.spec.hash}), and the memories of its rule {name!r} do not mean the same:"
                + "".join(f"\n  {change}" for change in changes)
            )
        return plan


_Told = Mapping[str, tuple[str, str]]


def _changes(old: _Told, new: _Told, plan: Mapping[str, str | Was], read: Iterable[str]) -> list[str]:
    """A line for each memory of either spec that nothing has been made of."""
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


def _of_same_spec(name: str, spec: Spec | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """What was pickled, without its hash; ValueError for that of another spec, as no description could convert it."""
    if spec is not None and state.get("_spec", spec.hash) != spec.hash:
        raise ValueError(
            f"this {name} was pickled with another version of its spec ({state['_spec']}, now {spec.hash}); "
            "between versions save its `state_dict()`"
        )
    return {key: value for key, value in state.items() if key != "_spec"}


def _is_common(name: str) -> bool:
    """Whether every spec could have this in its state: a counter, or what a precision needs."""
    return name in ("step", "kahan", "master") or name.endswith("_step")


def _undescribed(name: str, held: Sequence[str]) -> str:
    return (
        f"the loaded state dict does not say of which spec its memories ({_commas(held) or 'none'}) are: another class "
        f"or an older {name} wrote it. If they are those of this spec, give its groups what "
        f'`state_dict()["param_groups"]` of a new {name} has under {SPEC_KEY!r}, and load it again'
    )


def _commas(names: Iterable[str]) -> str:
    return ", ".join(names)


def _applied(was: Was, entry: Mapping[str, Any], group: Mapping[str, Any], p: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A memory made of older ones, in their dtype and on their device."""
    known = {"t": int(entry.get("step", 0)), **group}
    scalars = {name: known[name].item() if isinstance(known[name], Tensor) else known[name] for name in was.scalars}
    given = [entry[name].detach().clone() for name in was.memories]
    value = was.function(*given, **scalars)
    like = given[0] if given else torch.empty(0, dtype=_compute_dtype(p.dtype), device=p.device)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(given[0].shape if given else shape)
