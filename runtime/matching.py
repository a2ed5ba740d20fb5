"""Which parameter of a checkpoint belongs to which parameter of an optimizer.

In: the groups of both. Out: the group and the keys of the checkpoint for each group of the optimizer, in its order, or
a ValueError that names what does not correspond. Names decide where both sides have them, whatever wrappers have added
to them; else places do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What wrappers of modules put into the names of parameters: torch.compile, FSDP, activation checkpoints.
WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
OUTERMOST = "module."  # DistributedDataParallel and DataParallel, before every name

_Groups = Sequence[Mapping[str, Any]]
_Pairs = list[tuple[Mapping[str, Any], list[Any]]]


def _match(own: _Groups, saved: _Groups) -> _Pairs:
    """For each group of the optimizer the saved group and, for each of its parameters, the key of its saved state."""
    if len(own) != len(saved):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved)}, where {len(own)} are expected"
        )
    mine, theirs = _names(own), _names(saved)
    keys = [key for group in saved for key in group["params"]]
    if len({*keys}) < len(keys):
        raise ValueError("loaded state dict lists a parameter twice in its groups")
    if mine is None or theirs is None or mine == theirs or _is_of_other_names(saved, mine, theirs):
        return _match_by_place(own, saved)
    return _match_by_name(saved, *_comparable(mine, theirs))


def _names(groups: _Groups) -> list[list[str]] | None:
    """The names of the parameters of each group; None unless all have some.

    Torch's checkpoint helpers use names as keys, and sort these as the optimizer has them, but not `param_names`.
    """
    found = []
    for group in groups:
        keys = group["params"]
        names = keys if keys and all(isinstance(key, str) for key in keys) else group.get("param_names", ())
        if len(names) != len(keys) or not all(isinstance(name, str) for name in names):
            return None
        found.append(list(names))
    return found if any(found) else None


def _is_of_other_names(saved: _Groups, mine: list[list[str]], theirs: list[list[str]]) -> bool:
    """Whether the keys are names of the model, and the optimizer calls its parameters by quite other ones."""
    keys = [key for group in saved for key in group["params"]]
    one, other = _comparable(mine, theirs)
    return all(isinstance(key, str) for key in keys) and not {*_all(one)} & {*_all(other)}


def _match_by_place(own: _Groups, saved: _Groups) -> _Pairs:
    for mine, other in zip(own, saved, strict=True):
        if len(mine["params"]) != len(other["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"{len(other['params'])} parameters, where {len(mine['params'])} are expected"
            )
    return [(other, list(other["params"])) for other in saved]


def _match_by_name(saved: _Groups, mine: list[list[str]], theirs: list[list[str]]) -> _Pairs:
    """The saved groups in the order of the optimizer's, which must hold the same names."""
    for side, names in (("the loaded state dict", theirs), ("the optimizer", mine)):
        if twice := [name for name, count in Counter(_all(names)).items() if count > 1]:
            raise ValueError(f"{side} has several parameters of the name {twice[0]!r}, in another order than the other")
    home = {name: i for i, group in enumerate(theirs) for name in group}
    if missing := {*_all(mine)} ^ home.keys():
        sides = [f"{side} alone has {_some(names)}" for side, names in (
            ("the optimizer", [name for name in _all(mine) if name in missing]),
            ("the loaded state dict", [name for name in home if name in missing]),
        ) if names]  # fmt: skip
        raise ValueError(
            f"parameters of the loaded state dict have other names: {'; '.join(sides)}. Without `param_names` in its "
            "groups it is loaded by place"
        )
    left = [i for i, group in enumerate(theirs) if not group]
    pairs = []
    for group in mine:
        index = home[group[0]] if group else left.pop(0) if left else -1
        if index < 0 or {*group} != {*theirs[index]}:
            moved = next((name for name in group if home[name] != index), group[0] if group else "")
            raise ValueError(f"parameter {moved!r} is in a group of other parameters in the loaded state dict")
        keys = dict(zip(theirs[index], saved[index]["params"], strict=True))
        pairs.append((saved[index], [keys[name] for name in group]))
    return pairs


def _comparable(*sides: list[list[str]]) -> list[list[list[str]]]:
    """The names as they are if they are the same, else without what wrappers have added."""
    if len({frozenset(_all(names)) for names in sides}) == 1:
        return list(sides)
    return [_unwrap(names) for names in sides]


def _unwrap(names: list[list[str]]) -> list[list[str]]:
    bare = [[".".join(part for part in n.split(".") if part not in WRAPPERS) for n in group] for group in names]
    while bare and all(name.startswith(OUTERMOST) for name in _all(bare)):
        bare = [[name.removeprefix(OUTERMOST) for name in group] for group in bare]
    return bare


def _all(names: Iterable[Iterable[str]]) -> list[str]:
    return [name for group in names for name in group]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
