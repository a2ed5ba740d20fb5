"""Buckets: which parts of which parameters run as one call."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from .interface import Memory
from .places import Place, Slot

# On the CPU, units from 2^15 elements on run alone: they need no copy, and torch reduces smaller ones in one thread, so
# that a result does not depend on the size of the batch. 2^18 elements of a few tensors fit in the cache. On other
# devices a launch costs as much as the work on a million elements, and only memory limits a batch.
CPU_ALONE, CPU_BATCH, CPU_BLOCK = 1 << 15, 1 << 20, 1 << 18
DEVICE_ALONE, DEVICE_BATCH = 1 << 20, 1 << 28


class Bucket:
    """Units of one shape that run as one call; in the elementwise layout: parameters laid end to end.

    Once settled it owns the memories of its parameters: one buffer for each memory, of which the states are views.
    """

    def __init__(self, entries: list[tuple[Tensor, Place]]) -> None:
        self.entries = entries
        self.params = [p for p, _ in entries]
        self.counts = [place.count if len(place.unit) == 2 else place.unit[0] for _, place in entries]
        self.buffers: dict[str, Tensor] = {}
        self.views: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.fused: tuple[Any, Any] | None = None  # the kernel that fits the buffers, and the weights of these forms
        self.completed: list[Tensor] = self.params  # those of which no later bucket of the arrangement has a part
        self.is_plain = all(place.whole and not place.transposed for _, place in entries)
        self.cuts: Sequence[slice | None] = [None]
        if entries[0][0].device.type == "cpu" and len(entries[0][1].unit) == 1 and sum(self.counts) > CPU_BLOCK:
            self.cuts = [slice(i, i + CPU_BLOCK) for i in range(0, sum(self.counts), CPU_BLOCK)]

    def gather(self, tensors: Sequence[Tensor], memory: Memory | None = None) -> Tensor:
        """The units of all entries as one contiguous batch: a view where one entry has it in this form, else a copy."""
        flat: Tensor = _flatten_dense_tensors(self.windows(tensors, memory))  # type: ignore[no-untyped-call]
        return flat.view(self.entries[0][1].batch(memory))

    def scatter(self, batch: Tensor, tensors: Sequence[Tensor], memory: Memory | None = None) -> None:
        """The reverse of `gather`: copies the units of the batch to where they belong, in that dtype."""
        windows = self.windows(tensors, memory)
        parts = _unflatten_dense_tensors(batch.reshape(-1), windows)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(windows, parts)

    def windows(self, tensors: Sequence[Tensor], memory: Memory | None = None) -> list[Tensor]:
        """What belongs to the bucket of tensors that are like its parameters, or their states of `memory`."""
        if self.is_plain:
            return list(tensors)
        return [place.window(x, memory) for x, (_, place) in zip(tensors, self.entries, strict=True)]

    def is_settled(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the states still are the views of the buffers; anyone may have replaced them."""
        for p, views in self.views:
            entry = state[p]
            for name, view in views.items():
                if entry.get(name) is not view:
                    return False
        return bool(self.buffers)

    def listed(self, name: str, state: Mapping[Tensor, dict[str, Any]]) -> list[Tensor]:
        """The weights, gradients, or states of this name, one for each parameter; settled ones are not looked up."""
        if name == "weight":
            return self.params
        if name == "grad":
            return [p.grad for p in self.params]  # type: ignore[misc]
        if name in self.buffers:
            return [views[name] for _, views in self.views]
        return [state[p][name] for p in self.params]

    def settle(self, state: Mapping[Tensor, dict[str, Any]], memories: Iterable[tuple[Memory, torch.dtype]]) -> None:
        """Stacks the memories in buffers of the bucket and makes the states views of them."""
        buffers: dict[str, Tensor] = {}
        views: list[tuple[Tensor, dict[str, Tensor]]] = [(p, {}) for p in self.params]
        for memory, dtype in memories:
            buffers[memory.name] = self.gather([state[p][memory.name] for p in self.params], memory).to(dtype)
            parts = torch.split(buffers[memory.name], self.counts)
            for (p, place), (_, held), part in zip(self.entries, views, parts, strict=True):
                held[memory.name] = place.restored(part, memory, p.shape)
        # Only now, as everything before may run out of memory.
        self.buffers, self.views, self.fused = buffers, views, None
        for p, held in views:
            state[p].update(held)

    def release(self, state: Mapping[Tensor, dict[str, Any]], taken: Collection[Tensor] = ()) -> None:
        """Gives up the buffers; states of parameters that no other bucket has `taken` get storage of their own."""
        for p, views in self.views:
            for name, view in views.items():
                if p not in taken and state.get(p, {}).get(name) is view:
                    state[p][name] = view.clone()
        self.buffers, self.views, self.fused = {}, [], None


def _arranged(slots: Iterable[tuple[Tensor, Slot]], layout: str) -> list[Bucket]:
    """The buckets for parameters of one dtype and device: units of equal shape together, up to the size of a batch."""
    by_shape: dict[object, list[tuple[Tensor, Place]]] = {}
    for p, slot in slots:
        on_cpu = slot.device.type == "cpu"
        for place in slot.places(layout):
            size, flat = math.prod(place.unit), len(place.unit) == 1
            alone = size >= CPU_ALONE if on_cpu else flat and size >= DEVICE_ALONE
            key = (p, place) if alone else (flat or place.unit, place.whole)
            by_shape.setdefault(key, []).append((p, place))
    buckets: list[Bucket] = []
    for entries in by_shape.values():
        limit = CPU_BATCH if entries[0][0].device.type == "cpu" else DEVICE_BATCH
        buckets.extend(Bucket(part) for part in _filled(entries, limit))
    later: set[Tensor] = set()
    for bucket in reversed(buckets):
        bucket.completed = [p for p in dict.fromkeys(bucket.params) if p not in later]
        later.update(bucket.params)
    return buckets


def _filled(entries: list[tuple[Tensor, Place]], limit: int) -> Iterator[list[tuple[Tensor, Place]]]:
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
