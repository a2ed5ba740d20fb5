"""Buckets: which parts of which parameters run as one call."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ..contract.interface import DIMENSIONS, OWN_DIMENSIONS, State
from ..contract.precision import _States
from ..exchange.communication import Communication
from ..exchange.sharding import Sharding
from ..routing.places import Place, Slot
from .buffers import Buffer, _set_apart, _storage

_ParameterStates = MutableMapping[Any, Any]  # of each its states, by name
Stored = Mapping[str, list[Tensor]]  # by name, one tensor for each parameter

# On the CPU, units from 2^15 elements on run alone: they need no copy, and torch reduces smaller ones in one thread, so
# that a result does not depend on the size of the batch. 2^18 elements of a few tensors fit in the cache. On other
# devices a launch costs as much as the work on a million elements, and only memory limits a batch.
CPU_ALONE, CPU_BATCH, CPU_BLOCK = 1 << 15, 1 << 20, 1 << 18
DEVICE_ALONE, DEVICE_BATCH = 1 << 20, 1 << 28


@dataclass(frozen=True)
class Homes:
    """The states of a bucket that owners have whole, by name, and where its units lie in them, entry by entry."""

    states: frozenset[str] = frozenset()
    places: tuple[Place, ...] = ()


NOWHERE = Homes()


class Bucket:
    """Units of one shape that run as one call; in the elementwise layout: parameters laid end to end.

    Once settled it knows the states of its parameters as batches: one buffer for each state, which its tensors own.
    """

    def __init__(
        self, entries: list[tuple[Tensor, Place]], sharding: Sharding | None = None, homes: Homes = NOWHERE
    ) -> None:
        self.entries = entries
        self.sharding = sharding  # how the matrices lie on ranks, if the kernel needs more than is here
        self.homes = homes
        self.record = Communication()  # what ranks have sent for the bucket in its last step
        self.params = [p for p, _ in entries]
        self.counts = [place.count if len(place.unit) == 2 else place.unit[0] for _, place in entries]
        self.buffers: dict[str, Buffer] = {}
        self.fused: tuple[Any, Any] | None = None  # the kernel that fits the buffers, and the weights of these forms
        self.lattice: Any = None  # of the noise, once there is any
        self.completed: list[Tensor] = self.params  # those of which no later bucket of the arrangement has a part
        self.is_empty = not entries[0][1].count or not math.prod(entries[0][1].unit)
        self.is_plain = all(place.whole and not (place.transposed or place.turned) for _, place in entries)
        self.cuts: Sequence[slice | None] = [None]
        if entries[0][0].device.type == "cpu" and len(entries[0][1].unit) == 1 and sum(self.counts) > CPU_BLOCK:
            self.cuts = [slice(i, i + CPU_BLOCK) for i in range(0, sum(self.counts), CPU_BLOCK)]

    @property
    def rank(self) -> int:
        """The size of the rule's own dimension, of a whole matrix; 0 without one."""
        return self.entries[0][1].rank

    @property
    def sizes(self) -> dict[str, int]:
        """Rows and columns of a whole matrix, and those it has in the parameter; nothing in the elementwise layout."""
        place = self.entries[0][1]
        unit = place.sizes or place.unit
        if len(unit) != 2:
            return {}
        own = unit[::-1] if place.turned else unit
        return dict(zip((*DIMENSIONS, *OWN_DIMENSIONS), (*unit, *own), strict=True))

    def gather(self, tensors: Sequence[Tensor], kept: State | None = None) -> Tensor:
        """The units of all entries as one contiguous batch: a view where one entry has it in this form, else a copy."""
        flat: Tensor = _flatten_dense_tensors(self.windows(tensors, kept))  # type: ignore[no-untyped-call]
        return flat.view(self._places(kept)[0].batch(sum(self._counts(kept)), kept))

    def scatter(self, batch: Tensor, tensors: Sequence[Tensor], kept: State | None = None) -> None:
        """The reverse of `gather`: copies the units of the batch to where they belong, in that dtype."""
        windows = self.windows(tensors, kept)
        parts = _unflatten_dense_tensors(batch.reshape(-1), windows)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(windows, parts)

    def windows(self, tensors: Sequence[Tensor], kept: State | None = None) -> list[Tensor]:
        """What belongs to the bucket of tensors that are like its parameters, or what they have of the state `kept`."""
        if self.is_plain:
            return list(tensors)
        return [place.window(x, kept) for x, place in zip(tensors, self._places(kept), strict=True)]

    def _places(self, kept: State | None) -> Sequence[Place]:
        """Where the units lie in the parameters, or in what they have of the state."""
        if kept is not None and kept.name in self.homes.states:
            return self.homes.places
        return [place for _, place in self.entries]

    def _counts(self, kept: State | None) -> list[int]:
        """How many units there are of each parameter, or of what it has of the state."""
        if kept is not None and kept.name in self.homes.states:
            return [place.count for place in self.homes.places]
        return self.counts

    def is_shared(self, batch: Tensor, tensors: Sequence[Tensor], kept: State | None = None) -> bool:
        """Whether the batch that was gathered of the tensors is memory of theirs."""
        return batch.data_ptr() == self._places(kept)[0].window(tensors[0], kept).data_ptr()

    def is_settled(self, state: _ParameterStates) -> bool:
        """Whether the states still are what the buffers were cut into; anyone may have replaced or freed them."""
        return self.stored(state) is not None

    def stored(self, state: _ParameterStates) -> Stored | None:
        """The tensors of each state, one for each parameter, if the bucket is settled."""
        try:
            entries = [state[p] for p in self.params] if self.buffers else []
            stored = {name: [entry[name] for entry in entries] for name in self.buffers}
            is_settled = entries and all(self.buffers[name].is_made_of(found) for name, found in stored.items())
        except (KeyError, AttributeError, RuntimeError):  # not there, no tensor, or one without memory
            return None
        return stored if is_settled else None

    def settle(self, state: _ParameterStates, declared: _States) -> None:
        """Stacks the states in buffers, of which the parameters then have pieces."""
        buffers: dict[str, Buffer] = {}
        pieces: dict[str, list[Tensor]] = {}
        for kept, dtype in declared:
            given = [state[p][kept.name] for p in self.params]
            batch = self.gather(given, kept).to(dtype)
            if _storage(batch) == _storage(given[0]):  # whoever gave the state may use its memory for something else
                batch = batch.clone()
            parts = map(_set_apart, torch.split(batch, self._counts(kept)))
            pieces[kept.name] = [
                place.restored(part, kept, x.shape).data
                for place, part, x in zip(self._places(kept), parts, given, strict=True)
            ]
            buffers[kept.name] = Buffer(batch, pieces[kept.name])
        # Only now, as everything before may run out of memory.
        self.buffers, self.fused = buffers, None
        for name, tensors in pieces.items():
            for p, x in zip(self.params, tensors, strict=True):
                state[p][name] = x

    def takes_over(self, other: Bucket | None, declared: _States, state: _ParameterStates) -> bool:
        """Whether another bucket has buffers of these states for the same units, which this one now has."""
        if other is None or len(other.entries) != len(self.entries):
            return False
        if [(name, buffer.dtype) for name, buffer in other.buffers.items()] != [(m.name, d) for m, d in declared]:
            return False
        pairs = zip(other.entries, self.entries, strict=True)
        if not all(p is q and one == two for (p, one), (q, two) in pairs) or not other.is_settled(state):
            return False
        self.buffers, other.buffers, self.fused = other.buffers, {}, None
        return True

    def release(self, state: _ParameterStates, taken: Collection[Tensor] = ()) -> None:
        """Gives up the buffers; states of parameters that no other bucket has `taken` get memory of their own."""
        for name, buffer in self.buffers.items():
            for i, p in enumerate(self.params):
                x = None if p in taken else state.get(p, {}).get(name)
                if x is not None and buffer.holds(i, x):
                    state[p][name] = x.clone()
        self.buffers, self.fused = {}, None


def _arrange(slots: Iterable[tuple[Tensor, Slot]], layout: str) -> list[Bucket]:
    """The buckets for parameters of one dtype and device: units of equal shape together, up to the size of a batch."""
    by_shape: dict[object, list[tuple[Tensor, Place]]] = {}
    for p, slot in slots:
        on_cpu = slot.device.type == "cpu"
        for place in slot.places(layout):
            size, flat = math.prod(place.unit), len(place.unit) == 1
            alone = size >= CPU_ALONE if on_cpu else flat and size >= DEVICE_ALONE
            alone = alone or not place.count * size  # of a parameter of which this rank has nothing
            own = place.turned and slot.reads_own_sizes  # then a matrix and a transposed one have other numbers
            key = (p, place) if alone else (flat or (place.unit, place.sizes), place.whole, place.is_viewable, own)
            by_shape.setdefault(key, []).append((p, place))
    buckets: list[Bucket] = []
    for entries in by_shape.values():
        limit = CPU_BATCH if entries[0][0].device.type == "cpu" else DEVICE_BATCH
        buckets.extend(Bucket(part) for part in _fill_parts(entries, limit))
    later: set[Tensor] = set()
    for bucket in reversed(buckets):
        bucket.completed = [p for p in dict.fromkeys(bucket.params) if p not in later]
        later.update(bucket.params)
    return buckets


def _fill_parts(entries: list[tuple[Tensor, Place]], limit: int) -> Iterator[list[tuple[Tensor, Place]]]:
    """The entries in order, in parts of at most `limit` elements (or one entry)."""
    part: list[tuple[Tensor, Place]] = []
    total = 0
    for p, place in entries:
        size = place.count * math.prod(place.unit)
        if part and total + size > limit:
            yield part
            part, total = [], 0
        part.append((p, place))
        total += size
    yield part
