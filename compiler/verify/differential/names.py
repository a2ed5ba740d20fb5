"""Which hyper of the other optimizer stands for which of the spec.

A target is an argument of the other's constructor, or a part of one that is a tuple: ``betas[0]``. What the other does
not know stays at the spec's default; nothing here looks at the values.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# torch's names for ours, tried in this order where the other has no argument of our own name.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "beta": ("momentum", "mu"),
    "beta1": ("betas[0]", "momentum", "b1"),
    "beta2": ("betas[1]", "b2"),
    "mu1": ("betas[0]", "momentum"),
    "mu2": ("betas[1]",),
    "steps": ("ns_steps", "nsteps"),
    "shrink": ("etas[0]",),
    "grow": ("etas[1]",),
    "least": ("step_sizes[0]",),
    "most": ("step_sizes[1]",),
    "initial": ("initial_accumulator_value",),
    "clip": ("d",),
}
# What torch calls the states of ours in `optimizer.state[p]`.
STATES: Mapping[str, tuple[str, ...]] = {
    "m": ("exp_avg", "momentum_buffer"),
    "v": ("exp_avg_sq", "square_avg"),
    "top": ("max_exp_avg_sq", "exp_inf"),
    "s": ("sum",),
    "mean": ("grad_avg",),
    "moved": ("acc_delta",),
    "g": ("prev",),
    "size": ("step_size",),
    "average": ("ax",),
}
TARGET = re.compile(r"^(?P<key>[A-Za-z_]\w*)(?:\[(?P<index>\d+)\])?$")


class NameProblem(Exception):
    """A hyper is given to, or asked of, an optimizer that has none of this name."""


@dataclass(frozen=True)
class Argument:
    """An argument of the other constructor, or one item of it."""

    key: str
    index: int | None = None

    def __str__(self) -> str:
        return self.key if self.index is None else f"{self.key}[{self.index}]"


def read_target(text: str) -> Argument:
    match = TARGET.match(text)
    if match is None:
        raise NameProblem(f"`{text}` is no name of a hyper: write `name` or `name[0]`")
    return Argument(match["key"], None if match["index"] is None else int(match["index"]))


@dataclass(frozen=True)
class Names:
    """``targets`` for each hyper that the other knows; ``tuples`` are the defaults of arguments taken apart."""

    targets: Mapping[str, Argument]
    tuples: Mapping[str, tuple[Any, ...]]

    def translated(self, hypers: Mapping[str, Any]) -> dict[str, Any]:
        """The other's keys and values for some hypers of ours."""
        given: dict[str, Any] = {}
        for name, value in hypers.items():
            target = self.targets.get(name)
            if target is None:
                continue
            if target.index is None:
                given[target.key] = value
            else:
                items = list(given.get(target.key, self.tuples[target.key]))
                items[target.index] = value
                given[target.key] = tuple(items)
        return given

    def change(self, group: dict[str, Any], name: str, value: Any) -> None:
        """Give a parameter group of the other a new value of one of our hypers."""
        target = self.targets.get(name)
        if target is None:
            return
        if target.index is None:
            group[target.key] = value
        else:
            items = list(group[target.key])
            items[target.index] = value
            group[target.key] = type(group[target.key])(items)


def require_hypers(named: Iterable[str], hypers: Sequence[str]) -> None:
    """NameProblem unless all these are hypers of the spec."""
    for name in named:
        if name not in hypers:
            raise NameProblem(f"the spec has no hyper `{name}`; it has {', '.join(hypers) or 'none'}")


def match_names(hypers: Iterable[str], factory: Callable[..., Any], given: Mapping[str, str]) -> Names:
    """The other's name for each hyper: as ``given``, else the same name, else one that torch uses."""
    hypers = list(hypers)
    require_hypers(given, hypers)
    known, takes_all = arguments_of(factory)
    targets: dict[str, Argument] = {}
    for name in hypers:
        wanted = [given[name]] if name in given else [name, *SYNONYMS.get(name, ())]
        found = next((t for t in map(read_target, wanted) if t.key in known or takes_all), None)
        if found is None and name in given:
            raise NameProblem(f"the other optimizer has no argument `{wanted[0]}`; it has {', '.join(known)}")
        if found is not None and found not in targets.values():
            targets[name] = found
    return Names(targets, {t.key: whole_default(t, known) for t in targets.values() if t.index is not None})


def arguments_of(factory: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The arguments after the first with their defaults, and whether there is a ``**`` that takes any other."""
    parameters = list(inspect.signature(factory).parameters.values())
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name: each.default for each in parameters[1:] if each.kind in named}, takes_all


def whole_default(target: Argument, known: Mapping[str, Any]) -> tuple[Any, ...]:
    default = known.get(target.key)
    if not isinstance(default, tuple | list) or target.index is None or target.index >= len(default):
        raise NameProblem(f"the default of `{target.key}` has no item {target.index}")
    return tuple(default)
