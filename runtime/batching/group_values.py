"""What the hypers of groups are at a step: plain values, checked whenever a scheduler or a user has changed them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor

from ..contract.hypers import _check_hypers, _plain
from ..routing.groups import _held, _require_rounding
from .counters import _is_capturing
from .states import _drop_precision


def _check_values(owner: Any, group: Mapping[str, Any], hypers: Sequence[str]) -> None:
    """ValueError unless the hypers of the group, and how its weights are rounded, are valid."""
    _check_hypers(owner, _held(group, hypers))
    _require_rounding(group)


class GroupValues:
    """The values of the hypers that groups have, and which of them have been found valid."""

    def __init__(self, owner: type, hypers: Sequence[str], capturable: bool) -> None:
        self._owner, self._hypers, self._capturable = owner, hypers, capturable
        self._checked: dict[int, tuple[Any, ...]] = {}

    def of(self, group: dict[str, Any], state: MutableMapping[Any, Any]) -> tuple[Any, ...]:
        """The group's hypers as plain numbers, flags and strings; tensors stay if a graph is to read them.

        Drops from `state` what another precision has kept. Raises ValueError for what has become invalid.
        """
        given = _held(group, self._hypers)
        if _is_capturing():
            return tuple([v if self._reads(v) else _plain(k, v) for k, v in given.items()])
        values = tuple(map(_plain, given, given.values()))
        checked = (*values, *(_plain(k, v) for k, v in _held(group, ("seed", "precision")).items()))
        known = self._checked.get(id(group))
        if checked != known:
            _check_values(self._owner, group, self._hypers)
            if known and known[-1] != group["precision"]:
                _drop_precision(group["params"], state)
            self._checked[id(group)] = checked
        if not self._capturable:
            return values
        return tuple([v if self._reads(v) else x for v, x in zip(given.values(), values, strict=True)])

    def _reads(self, value: Any) -> bool:
        """Whether kernels are given the hyper as the tensor that it is."""
        return self._capturable and isinstance(value, Tensor)
