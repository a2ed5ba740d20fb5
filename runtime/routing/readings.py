"""Readings: which rule each parameter of a group follows, how it is read, and which hypers of a group have no effect.

In: groups as `torch.optim` has them, and a generated class. A group that sets `rule` is read as its keys say; in any
other each parameter is routed by its name, if it has one, and else by its number of dimensions, which cannot tell
tables from matrices: that is warned of.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from ..contract.interface import Rule
from .places import View, _view_in
from .routes import _rule_named, route

# From this ratio of its sides on, a tensor beside less uneven ones may be a table or an output layer.
UNEVEN = 16
# From this ratio of rows to columns on it may be one whose rows no other tensor has; 32000 x 8192 is such a table.
TALL = 3


@dataclass(frozen=True)
class Reading:
    """The role of a parameter and how it is read, in its group; `guessed` from nothing but its number of dimensions."""

    role: str
    view: View
    guessed: bool = False


def _readings_of(groups: Iterable[Mapping[str, Any]]) -> dict[Tensor, Reading]:
    """How each parameter of the groups is read.

    Names are looked at together, also those of groups with a rule: what a parameter is may follow from another's shape.
    """
    groups = list(groups)
    for group in groups:
        if not isinstance(group["rule"], (str, type(None))):
            raise ValueError(f"invalid rule={group['rule']!r}: the name of a rule or a role is expected, or None")
    routes = {}
    if any(group["rule"] is None and "param_names" in group for group in groups):
        named = [pair for group in groups for pair in zip(group.get("param_names", ()), group["params"], strict=False)]
        routes = {r.parameter: r for r in route(named)}
    readings = {}
    for group in groups:
        view = _view_in(group)
        for p in group["params"]:
            if group["rule"] is None and p in routes:
                found = routes[p]
                readings[p] = Reading(found.role, found.view if view == View() else view)
            else:
                role = group["rule"] or ("matrix" if p.ndim >= 2 else "vector")
                readings[p] = Reading(role, view, guessed=group["rule"] is None and p.ndim >= 2)
    return readings


def _settle_rates(
    owner: type[Any],
    arrived: Iterable[tuple[dict[str, Any], Collection[str]]],
    groups: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    hypers: Sequence[str],
) -> None:
    """Lets the lr that groups were given be that of their rules, and warns of given hypers that have no effect."""
    readings = _readings_of(groups)
    for group, given in arrived:
        rules = _rules_in(owner, group, readings)
        _set_own_rate(group, given, rules)
        _warn_of_unread(owner, group, [name for name in hypers if name in given], defaults, rules)


def _rules_in(owner: type[Any], group: Mapping[str, Any], readings: Mapping[Tensor, Reading]) -> list[Rule]:
    """The rules that the parameters of the group follow, each once."""
    found = [_rule_named(owner.RULES, role) for role in dict.fromkeys(readings[p].role for p in group["params"])]
    return list({rule.name: rule for rule in found if rule is not None}.values())


def _set_own_rate(group: dict[str, Any], given: Collection[str], rules: Sequence[Rule]) -> None:
    """An lr that is given for parameters which all follow a multiple of lr is their lr: the multiple becomes 1."""
    ratios = {rule.lr_ratio for rule in rules}
    ratio = next(iter(ratios)) if len(ratios) == 1 else None
    if ratio is not None and "lr" in given and ratio not in given:
        group[ratio] = 1.0


def _warn_of_unread(
    owner: type[Any], group: Mapping[str, Any], given: Sequence[str], defaults: Mapping[str, Any], rules: Sequence[Rule]
) -> None:
    """Warns of hypers that the group sets to something else than the others, and none of its rules reads."""
    read = {name for rule in rules for kernel in rule.kernels for name in kernel.scalars}
    names = [name for name in given if name not in read and _is_other(name, group[name], defaults[name])]
    unread = [f"{name}={group[name]!r}" for name in names]
    if unread and rules:
        follow = " and ".join(repr(rule.name) for rule in rules)
        warnings.warn(
            f"{owner.__name__}: {', '.join(unread)} in a parameter group has no effect: its parameters follow the rule "
            f"{follow}, which reads {', '.join(name for name in defaults if name in read)}",
            UserWarning,
            stacklevel=_level_outside(owner),
        )


def _level_outside(owner: type[Any]) -> int:
    """The `stacklevel` for a warning that shows who called the class, not what it called itself."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (_is_ours(frame.f_globals["__name__"]) or _is_within(frame, owner)):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(module: str) -> bool:
    package = __name__.rpartition(".")[0]
    return module == __name__ or bool(package and module.startswith(f"{package}."))


def _is_within(frame: FrameType, owner: type[Any]) -> bool:
    return isinstance(frame.f_locals.get("self"), owner)


def _is_other(name: str, value: Any, default: Any) -> bool:
    """Whether a group asks for something by this value; no decay is what a rule without one does anyway."""
    if isinstance(value, Tensor) or isinstance(default, Tensor):
        return value is not default
    return bool(value != default) and not (name == "weight_decay" and value == 0)


def _warn_of_guesses(owner: type[Any], groups: Iterable[Mapping[str, Any]]) -> None:
    """Warns of tensors without a name that may be tables, output layers or batches of matrices."""
    rules = [_rule_named(owner.RULES, role) for role in ("matrix", "embedding", "head")]
    if rules[0] in rules[1:]:
        return
    readings = _readings_of(groups)
    guessed = [p for p, reading in readings.items() if reading.guessed and reading.view == View()]
    found = [*_like_tables(guessed), *_like_batches(guessed)]
    if found:
        shapes = ", ".join(str(tuple(p.shape)) for p in found)
        warnings.warn(
            f"{owner.__name__}: of tensors without names nobody knows what they are; all of two and more dimensions "
            f"follow the rule {getattr(rules[0], 'name', 'matrix')!r}, also those of shape {shapes}, which look like "
            "tables, output layers or experts. Give the module itself, its named_parameters(), or groups with `rule` "
            "(optforge.param_groups(module) makes them; `batch=1` reads several matrices)",
            UserWarning,
            stacklevel=_level_outside(owner),
        )


def _like_tables(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The first and last matrix, where they are far more uneven than those between, or have rows of another kind.

    The rows of a layer are the columns of the next one; those of a table and of an output layer are nothing else.
    """
    matrices = [p for p in tensors if p.ndim == 2 and min(p.shape) > 1]
    if len(matrices) < 3:
        return []
    usual = max(max(p.shape) / min(p.shape) for p in matrices[1:-1])
    widest = max(max(p.shape) for p in matrices[1:-1])

    def is_like_one(p: Tensor) -> bool:
        rows, cols = p.shape
        return max(p.shape) / min(p.shape) >= max(UNEVEN, 2 * usual) or (rows > widest and rows >= TALL * cols)

    return [p for p in (matrices[0], matrices[-1]) if is_like_one(p)]


def _like_batches(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those of three dimensions of which the last is no kernel of a convolution: it is larger than the first."""
    return [p for p in tensors if p.ndim == 3 and p.shape[2] > p.shape[0] and min(p.shape[1:]) >= UNEVEN]
