"""Parameter groups: which keys they may have, and one key by which schedulers know the momentum.

A group has every hyper and some options. Frameworks and users add keys of their own (`name`, `lr_scale`), which are
kept and ignored. A key that is nearly a hyper or an option, or that would set how torch's own optimizers step, is an
error, as it would have no effect.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..contract.arguments import _as_list, _kind_of, _members, _require_kind
from ..contract.hypers import _suggest
from ..contract.interface import PRECISIONS
from .places import VIEW_KEYS
from .routes import param_groups

OPTIONS = ("params", "param_names", "rule", *VIEW_KEYS, "precision", "seed")
DEFAULTS = {"rule": None, "transposed": False, "split": None, "batch": 0}
SCHEDULER_KEYS = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr", "differentiable")
MOMENTUM = "momentum"


class Group(dict[str, Any]):
    """A dictionary in which "momentum" is another name for some hypers, which `momentum` lists.

    Schedulers that cycle the momentum look for this key in the defaults of an optimizer, and write it in its groups. It
    reads the first of the hypers and writes all of them, and is no key of its own: iteration, a copy and a state dict
    have the hypers alone.
    """

    momentum: tuple[str, ...] = ()  # none in an instance that is being unpickled

    def __init__(self, items: Mapping[str, Any], momentum: Sequence[str] = ()) -> None:
        super().__init__()
        self.momentum = tuple(momentum)
        self.update(items)

    def __missing__(self, key: str) -> Any:
        if key == MOMENTUM and self.momentum:
            return self[self.momentum[0]]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key == MOMENTUM and bool(self.momentum))

    def __setitem__(self, key: str, value: Any) -> None:
        for name in self.momentum if key == MOMENTUM and self.momentum else (key,):
            super().__setitem__(name, value)

    # Those of a dictionary look past the methods above.
    get = MutableMapping.get  # type: ignore[assignment]
    setdefault = MutableMapping.setdefault
    update = MutableMapping.update

    def __ior__(self, other: Any) -> Group:  # type: ignore[override,misc]
        self.update(other)
        return self


class Defaults(Group):
    """The defaults of an optimizer, in which those schedulers look whether there is a momentum to cycle.

    A hyper that is called so and plays none, as the compiler finds, is not in them when they ask, though it can be read
    as any other: cycling it would set something else.
    """

    has_momentum: bool = True

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) and (key != MOMENTUM or self.has_momentum)


def _defaults_of(owner: type[Any], hypers: Mapping[str, Any], precision: str, seed: int) -> Defaults:
    """What the groups of an optimizer have where they say nothing."""
    options = {**DEFAULTS, "precision": precision, "seed": seed}
    found = Defaults({**hypers, **options}, _second_names(owner.MOMENTUM, hypers))
    found.has_momentum = MOMENTUM in owner.MOMENTUM or MOMENTUM not in hypers
    return found


def _second_names(momentum: Sequence[str], hypers: Iterable[str]) -> tuple[str, ...]:
    """The hypers that "momentum" is another name for in groups: none where a hyper has that name."""
    return () if MOMENTUM in hypers else tuple(momentum)


# -- what is given as groups -------------------------------------------------------------------------------------------


def _read_groups(owner: type[Any], params: Any) -> list[Any]:
    """What a constructor is given, as a list of groups or of parameters; a module's are groups by role.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(params, nn.Module):
        return list(param_groups(params))
    given = _as_list(owner.__name__, params, "a module, its named parameters, tensors, or groups of these")
    return given if given and isinstance(given[0], dict) else _members(owner.__name__, given)


def _copy_group(group: Any) -> dict[str, Any]:
    """A copy of a group as it is given, with its parameters as a list; TypeError for anything else."""
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {_kind_of(group)}")
    if "params" not in group:
        raise TypeError("a parameter group lacks 'params'")
    return {**group, "params": _members("a parameter group", group["params"])}


def _held(group: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a group has under these names; ValueError for one that it lacks."""
    try:
        return {name: group[name] for name in names}
    except KeyError as lacking:
        raise ValueError(
            f"a parameter group lacks {lacking.args[0]!r}: add_param_group fills in what is not given"
        ) from None


def _require_groups(groups: object) -> None:
    """TypeError unless this is a list of groups that list tensors, and names for them if any."""
    _require_kind("optimizer.param_groups", groups, list, "a list of dictionaries")
    assert isinstance(groups, list)
    for group in groups:
        _require_kind("optimizer.param_groups", group, dict, "dictionaries")
        for key, kind, expected in (("params", Tensor, "tensors"), ("param_names", str, "names")):
            what = f"{key!r} of a parameter group"
            _require_kind(what, listed := group.get(key, ()), (list, tuple), f"a list of {expected}")
            for each in listed:
                _require_kind(what, each, kind, expected)


def _require_rounding(group: Mapping[str, Any]) -> None:
    """ValueError unless the group says in a valid way how its weights are rounded."""
    precision, seed = group["precision"], group["seed"]
    if precision not in PRECISIONS:
        raise ValueError(f"invalid precision={precision!r}{_suggest(precision, PRECISIONS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ValueError(f"invalid seed={seed!r}: a whole number from 0 to 2**64 - 1 is expected")


# -- keys and arguments that are none of ours --------------------------------------------------------------------------


def _require_known_keys(
    group: Mapping[str, Any], owner: type[Any], hypers: Sequence[str], others: Iterable[str] = ()
) -> None:
    """ValueError for a key that is meant to set something, and does not; `others` are known as well."""
    for key in group:
        if key in (*hypers, *OPTIONS, *SCHEDULER_KEYS, *others):
            continue
        if key in _arguments_of_torch():
            if advice := _advice(owner, hypers, key, group[key]):
                raise ValueError(f"{owner.__name__} has no {key!r} in parameter groups: {advice}")
        elif slips := [name for name in (*hypers, *OPTIONS) if _is_slip(str(key), name)]:
            raise ValueError(f"unknown key {key!r} in a parameter group; did you mean {slips[0]!r}?")
    if group.get("use_muon") is False and group.get("rule") is None and any(r.name == "rest" for r in owner.RULES):
        warnings.warn("use_muon=False is ignored in a parameter group; rule='rest' is how to say it", stacklevel=3)


@cache
def _arguments_of_torch() -> frozenset[str]:
    """The names of what torch's own optimizers can be told."""
    classes = [each for each in vars(torch.optim).values() if isinstance(each, type)]
    optimizers = [each for each in classes if issubclass(each, torch.optim.Optimizer)]
    names = {name for each in optimizers for name in inspect.signature(each).parameters}
    return frozenset(names - {"params", "defaults", "args", "kwargs"})


def _explains_arguments(construct: Callable[..., None], options: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The constructor without those arguments of torch's that ask for nothing, and with advice on any other.

    `options` stand in its signature for `**options: Unpack[Options]`.
    """
    signature = inspect.signature(construct)
    given = [each for each in signature.parameters.values() if not str(each.annotation).endswith("Options]")]
    if any(each.kind is each.VAR_KEYWORD for each in given):
        return construct
    if len(given) < len(signature.parameters):
        signature = signature.replace(parameters=[*given, *options])
    arguments = signature.parameters
    ours = [name for name in arguments if name not in ("self", "params")]

    @wraps(construct)
    def explaining(self: Any, *given: Any, **named: Any) -> None:
        for name in [name for name in named if name not in arguments]:
            value, owner = named.pop(name), type(self)
            if advice := _advice(owner, ours, name, value):
                raise TypeError(f"{owner.__name__} has no argument {name!r}: {advice}")
        construct(self, *given, **named)

    explaining.__signature__ = signature  # type: ignore[attr-defined]
    return explaining


ADVICE = {
    "maximize": "negate the loss instead",
    "amsgrad": "AMSGrad is an optimizer of its own",
    "differentiable": "no gradient flows through a step",
}


def _advice(owner: type[Any], ours: Sequence[str], name: str, value: object) -> str | None:
    """What to write in place of a setting that is none of `ours`; None for one of torch's that asks for nothing."""
    betas = [each for each in ours if each.startswith("beta") and each[4:].isdigit()] or owner.MOMENTUM[:1]
    counterparts = {"betas": betas, "momentum": owner.MOMENTUM[:1], "ns_steps": [n for n in ours if n == "steps"]}
    if found := counterparts.get(name):
        values = value if isinstance(value, (tuple, list)) else [value]
        if len(values) == len(found):
            return f"write {', '.join(f'{n}={v!r}' for n, v in zip(found, values, strict=True))}"
        return f"it has {', '.join(found)}"
    asks_for_nothing = value is None or (isinstance(value, (int, float)) and not value)
    if name in ("fused", "foreach") or (asks_for_nothing and name in _arguments_of_torch()):
        return None  # how fast a step is, or what it does without being told
    slips = [f"did you mean {each!r}?" for each in ours if _is_slip(name, each)]
    return ADVICE.get(name) or (slips or [f"known are {', '.join(ours)}"])[0]


# -- names that are nearly others --------------------------------------------------------------------------------------


def _is_slip(name: str, known: str) -> bool:
    """Whether `name` is probably `known` mistyped: in other case, a letter or two wrong, missing, added or swapped."""
    one, two = name.lower(), known.lower()
    longer = max(len(one), len(two))
    if longer <= 2:
        return sorted(one) == sorted(two)
    return _distance(one, two) <= (1 if longer <= 7 else 2)


def _distance(one: str, two: str) -> int:
    """How many letters must be changed, added, left out or swapped with the next to make one name the other."""
    rows = [list(range(len(two) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            costs = [rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (a != b)]
            if i > 1 and j > 1 and (one[i - 2], two[j - 2]) == (b, a):
                costs.append(rows[-2][j - 2] + 1)
            row.append(min(costs))
        rows.append(row)
    return rows[-1][-1]
