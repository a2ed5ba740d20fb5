"""States as this rank sees them: what of each lies here, under the names that it has in the optimizer.

In the states of an optimizer those of a DTensor parameter are DTensors, so that all of torch's tools for
checkpoints know what they are. A step reads and writes the tensors in them. What one rank owns is a plain tensor,
whole there and of no rows on all others; `state_dict` makes a DTensor of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from ..routing.places import Slot
from .layouts import _is_dtensor
from .slots import LocalSlot


class LocalEntry(MutableMapping[str, Any]):
    """The state of one DTensor parameter: reads the part that is here, and wraps what is written."""

    def __init__(self, entry: MutableMapping[str, Any], slot: LocalSlot) -> None:
        self._entry, self._slot = entry, slot

    def __getitem__(self, name: str) -> Any:
        value = self._entry[name]
        return value.to_local() if _is_dtensor(value) else value

    def __setitem__(self, name: str, value: Any) -> None:
        kept = None if name in self._slot.owned else self._slot.declared(name)
        self._entry[name] = value if kept is None else self._slot.wrapped(kept, value)

    def __delitem__(self, name: str) -> None:
        del self._entry[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entry)

    def __len__(self) -> int:
        return len(self._entry)


def _wrap_entry(entry: Any, slot: Slot | None) -> Any:
    """The state of a parameter as this rank sees it."""
    return LocalEntry(entry, slot) if isinstance(slot, LocalSlot) else entry


class LocalStates(MutableMapping[Any, Any]):
    """The states of an optimizer of which some parameters are DTensors."""

    def __init__(self, states: MutableMapping[Any, Any], slots: Mapping[Tensor, Slot]) -> None:
        self._states, self._slots = states, slots

    def __getitem__(self, p: Any) -> Any:
        return _wrap_entry(self._states[p], self._slots.get(p))

    def get(self, p: Any, default: Any = None) -> Any:
        return self[p] if p in self._states else default  # those of an optimizer make what is asked for

    def __setitem__(self, p: Any, entry: Any) -> None:
        self._states[p] = {}
        self[p].update(entry)

    def __delitem__(self, p: Any) -> None:
        del self._states[p]

    def __contains__(self, p: object) -> bool:
        return p in self._states

    def __iter__(self) -> Iterator[Any]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)
