"""How often each parameter took a step or an event: numbers for Python, which the states show as 0-d float32 tensors.

A count is written by Python into the four bytes of its tensor, which costs as little as keeping the number alone. What
anyone else has put into a state is read again: another tensor or number in its place, or another value in the tensor.

A CUDA graph repeats what the device did, not what Python did. An optimizer that is capturable therefore counts on the
device. Outside of a capture it reads the counts, and so waits for the device once a step; inside it goes by what it
read last.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import _require_kind

# Float32 counts without gaps to 2^24, as torch's optimizers do. Beyond that tensors show the nearest number they can,
# while a running optimizer goes on counting by one.
COUNT_LIMIT = 1 << 40

_Entries = Mapping[Any, Any]


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _read_count(name: str, value: object) -> int:
    """A count that is given as a number or as a tensor of one number; ValueError for what cannot be a count."""
    has_one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta
    plain: Any = value.item() if has_one else value  # type: ignore[attr-defined]
    is_number = isinstance(plain, Real) and not isinstance(plain, bool)
    if not is_number or not 0 <= plain <= COUNT_LIMIT or int(plain) != plain:
        raise ValueError(f"invalid state {name}={value!r}: a count is a whole number from 0 to {COUNT_LIMIT}")
    return int(plain)


class Count:
    """A number, and the memory in which the tensor of a state shows it."""

    __slots__ = ("cell", "number", "shown")

    def __init__(self, number: int) -> None:
        self.cell = array("f", [number])
        self.number, self.shown = number, self.cell[0]

    def tensor(self) -> Tensor:
        return torch.frombuffer(self.cell, dtype=torch.float32).view(()).data

    def is_shown_by(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.data_ptr() == self.cell.buffer_info()[0]


class Counters:
    """The counts in the states of an optimizer, under the names "step" and "<event>_step"."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Any, Count]] = {}
        self._seen: dict[str, tuple[list[int], list[int]]] = {}  # keys of the states, and where their counts lie

    def begin(self, counter: str, p: Tensor, number: int = 0) -> Tensor:
        """A count, as the state of p is to have it."""
        count = self._counts.setdefault(counter, {})[p] = Count(number)
        return count.tensor()

    def adopt(self, counter: str, state: _Entries) -> None:
        """Takes up whatever the states have as their counts; ValueError if a state has something else in its place."""
        if self._seen.get(counter) != (places := _places_of(counter, state)) or places is None:
            self._counts[counter] = {p: self._adopted(counter, p, entry) for p, entry in _find_entries(counter, state)}
            self._seen[counter] = _places_of(counter, state) or ([], [])

    def known(self, counter: str, state: _Entries) -> Mapping[Any, Count]:
        """The counts of the parameters that have one; ValueError if a state has something else in its place."""
        self.adopt(counter, state)
        counts = self._counts[counter]
        for count in counts.values():
            if count.cell[0] != count.shown:
                count.number, count.shown = _read_count(counter, count.cell[0]), count.cell[0]
        return counts

    def _adopted(self, counter: str, p: Tensor, entry: MutableMapping[str, Any]) -> Count:
        """The count that the state shows, or a new one in the place of what anyone else has put there."""
        count = self._counts.get(counter, {}).get(p)
        if count is None or not count.is_shown_by(entry[counter]):
            count = Count(_read_count(counter, entry[counter]))
            entry[counter] = count.tensor()
        return count

    def begun(self) -> set[Any]:
        """The parameters that took a step or event, as far as Python knows: it waits for no device."""
        return {p for counts in self._counts.values() for p, count in counts.items() if count.number}

    def current(self, counter: str, state: _Entries, p: Tensor, t: int) -> Any:
        """The count t that the next step of p has, as kernels are to see it."""
        return t

    def advance(self, counter: str, state: _Entries, params: Sequence[Tensor], t: int) -> None:
        """Notes that the parameters, which all had the count t - 1, took one more."""
        counts = self._counts.setdefault(counter, {})
        shown = array("f", [t])[0]
        for p in params:
            count = counts.get(p)
            if count is None:
                state[p][counter] = self.begin(counter, p)
                count = counts[p]
            count.number = count.cell[0] = t
            count.shown = shown


class DeviceCounters(Counters):
    """The same for an optimizer that is capturable: counts are 0-d float32 tensors on the devices of parameters."""

    def begin(self, counter: str, p: Tensor, number: int = 0) -> Tensor:
        return _move_count(number, p)

    def adopt(self, counter: str, state: _Entries) -> None:
        for p, entry in _find_entries(counter, state):
            held = entry[counter]
            if not isinstance(held, Tensor) or (held.device, held.dtype, held.ndim) != (p.device, torch.float32, 0):
                entry[counter] = _move_count(_read_count(counter, held), p)

    def known(self, counter: str, state: _Entries) -> Mapping[Any, Count]:
        if not _is_capturing():
            self.adopt(counter, state)
            by_device: dict[torch.device, list[Tensor]] = {}
            for p, _ in _find_entries(counter, state):
                by_device.setdefault(p.device, []).append(p)
            self._counts[counter] = {}
            for params in by_device.values():
                values = torch.stack([state[p][counter] for p in params]).tolist()
                self._counts[counter] |= {
                    p: Count(_read_count(counter, value)) for p, value in zip(params, values, strict=True)
                }
        return self._counts.setdefault(counter, {})

    def current(self, counter: str, state: _Entries, p: Tensor, t: int) -> Any:
        """As a 0-d tensor where one is counted on."""
        count = state.get(p, {}).get(counter)
        return t if count is None else count.double() + 1

    def advance(self, counter: str, state: _Entries, params: Sequence[Tensor], t: int) -> None:
        old = [state[p][counter] for p in params if counter in state[p]]
        new = [p for p in params if counter not in state[p]]
        if old:
            torch._foreach_add_(old, 1)
        for p in new:
            state[p][counter] = _move_count(t, p)
        self._counts.setdefault(counter, {}).update((p, Count(t)) for p in params)


def _find_entries(counter: str, state: _Entries) -> Iterator[tuple[Tensor, MutableMapping[str, Any]]]:
    """The parameters whose states have this count; a state may hold other things under keys of its own."""
    _require_entries(state)
    for p, entry in state.items():
        if isinstance(p, Tensor) and counter in entry:
            yield p, entry


def _require_entries(state: object) -> None:
    """TypeError unless this is a dictionary that has one for each parameter; ValueError if two have the same."""
    _require_kind("optimizer.state", state, Mapping, "a dictionary of states by parameter")
    assert isinstance(state, Mapping)
    entries = [entry for p, entry in state.items() if isinstance(p, Tensor)]
    for entry in entries:
        _require_kind("optimizer.state", entry, MutableMapping, "a dictionary for each parameter")
    if len({*map(id, entries)}) < len(entries):
        raise ValueError("optimizer.state has one dictionary for two parameters; each needs its own")


def _places_of(counter: str, state: _Entries) -> tuple[list[int], list[int]] | None:
    """Which keys the states have, and where their counts lie; None if one is no tensor."""
    try:
        counts = [entry.get(counter) for entry in state.values()]
        return [*map(id, state)], [0 if x is None else x.data_ptr() for x in counts]
    except (AttributeError, RuntimeError):  # of no tensor, or of one without memory
        return None


def _move_count(count: int, p: Tensor) -> Tensor:
    return torch.full((), count, dtype=torch.float32, device=p.device)
