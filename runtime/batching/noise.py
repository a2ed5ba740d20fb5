"""Noise, of stochastic rounding and of what rules draw: numbers of a seed, a parameter, a count and an element alone.

In: the entries of a bucket, and by what each parameter is known. Out: an int32 for each element of the batch, which
rounding and draws hash. As no generator is there, an element has the same bits in whatever bucket, shard,
graph or process, and in a run that goes on from a checkpoint; replicas agree.

An element of a parameter has the number `factor * index + offset`, where index counts the elements of the whole
parameter in the order of its dimensions, and both others follow from seed, parameter and count. In a step no two of
2^32 elements of a parameter have the same number; larger ones repeat after that.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..linalg.hashing import _mix, _wrap
from ..routing.places import Place
from .buckets import Bucket


@dataclass(frozen=True)
class Mark:
    """By what the noise of a parameter is known: its number in the optimizer, whatever other parameters do.

    Of a shard, also the sizes of the `whole` parameter and, in each of its dimensions, the index of the shard's `first`
    element: rows 4 to 7 of 12×5 are `Mark(number, (12, 5), (4, 0))`, the last two columns `Mark(number, (12, 5), (0,
    3))`. The shard's elements are then rounded as in the whole. `shape` is the shard's, if the parameter has another.
    """

    number: int
    whole: tuple[int, ...] | None = None
    first: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Noise:
    """The noise of parameters that take the same step or event, the t-th that `counter` counts."""

    seed: int
    counter: str
    t: Any  # a number, or a 0-d tensor where the device counts
    marks: Mapping[Tensor, Mark]

    def numbers(self, bucket: Bucket) -> Tensor:
        """One for each element of the bucket, in the form in which kernels see the weights."""
        shape = bucket.entries[0][1].batch(sum(bucket.counts))
        if bucket.is_empty:
            return torch.empty(shape, dtype=torch.int32, device=bucket.params[0].device)
        marks = [self.marks[p] for p in bucket.params]
        lattice: Lattice | None = bucket.lattice
        if lattice is None or (lattice.seed, lattice.marks) != (self.seed, marks):
            lattice = bucket.lattice = Lattice(self.seed, marks, bucket.entries)
        return lattice.numbers(self._turn).view(shape)

    def whole_numbers(self, bucket: Bucket) -> Tensor:
        """Those of the whole matrices that this rank owns, of a bucket whose matrices lie on several ranks."""
        homes = zip(bucket.params, bucket.homes.places, strict=True)
        entries = [(p, place) for p, place in homes if place.count]
        shape = bucket.homes.places[0].batch(sum(place.count for _, place in entries))
        if not entries:
            return torch.empty(shape, dtype=torch.int32, device=bucket.params[0].device)
        marks = [replace(self.marks[p], whole=None, first=(), shape=tuple(p.shape)) for p, _ in entries]
        return Lattice(self.seed, marks, entries).numbers(self._turn).view(shape)

    @property
    def of_first_values(self) -> Noise:
        """That of what states begin with, whenever that is."""
        return replace(self, counter="(first values)", t=0)

    @cached_property
    def _turn(self) -> Tensor:
        """Random bits for this count of this counter."""
        count = self.t.to(torch.int64) if isinstance(self.t, Tensor) else torch.tensor(self.t, device="cpu")
        return _mix(count + (zlib.crc32(self.counter.encode()) << 30))


class Lattice:
    """Which elements of whole parameters a batch has, in its order."""

    def __init__(self, seed: int, marks: list[Mark], entries: Sequence[tuple[Tensor, Place]]) -> None:
        self.seed, self.marks = seed, marks
        self.device = entries[0][0].device
        pairs = zip(entries, marks, strict=True)
        found = [_indices(place, mark.shape or tuple(p.shape), mark.whole, mark.first) for (p, place), mark in pairs]
        firsts, self._axes = [first for first, _ in found], [axes for _, axes in found]
        self._sizes = [math.prod(size for size, _ in axes) for axes in self._axes]
        self._size, self._width = sum(self._sizes), math.gcd(*self._sizes)
        self._in_order = all(len(axes) == 1 and axes[0][1] == 1 for axes in self._axes)
        if self._in_order:  # one count over the batch does for all entries
            firsts = [first - before for first, before in zip(firsts, accumulate(self._sizes, initial=0), strict=False)]
        numbers = torch.tensor([mark.number for mark in marks], device="cpu")
        keys = _mix(numbers + _mix(torch.tensor(_wrap(seed, 64), device="cpu")))
        self._keys, self._firsts = keys.to(self.device), torch.tensor(firsts, device=self.device)
        self._repeats = torch.tensor([size // self._width for size in self._sizes], device=self.device)

    def numbers(self, turn: Tensor) -> Tensor:
        """The numbers of all elements at this turn."""
        bits = _mix(self._keys + turn)
        factors = (bits >> 32) | 1
        offsets = bits + factors * self._firsts
        return self._counted().view(-1, self._width).mul_(self._spread(factors)).add_(self._spread(offsets))

    def _spread(self, values: Tensor) -> Tensor:
        """The values of entries, each repeated for every `width` elements of it."""
        rows = self._size // self._width
        return values.to(torch.int32).repeat_interleave(self._repeats, output_size=rows).unsqueeze(1)

    def _counted(self) -> Tensor:
        """The index of each element, less that of the first in its entry (in order: the place in the batch)."""
        if self._in_order:
            return self._line(self._size)
        counted = torch.zeros(self._size, dtype=torch.int32, device=self.device)
        for part, axes in zip(torch.split(counted, self._sizes), self._axes, strict=True):
            grid = part.view([size for size, _ in axes])
            for axis, (size, stride) in enumerate(axes):
                grid.transpose(axis, -1).add_(self._line(size), alpha=_wrap(stride, 32))
        return counted

    def _line(self, size: int) -> Tensor:
        dtype = torch.int32 if size < 1 << 31 else torch.int64  # of which the lower half counts
        return torch.arange(size, dtype=dtype, device=self.device).to(torch.int32)


_Sizes = tuple[int, ...]
_Axes = tuple[tuple[int, int], ...]  # sizes and strides


@lru_cache(maxsize=4096)
def _indices(place: Place, shape: _Sizes, whole: _Sizes | None, first: _Sizes) -> tuple[int, _Axes]:
    """Where the elements of a place are in a whole parameter: the index of the first one, and how the others follow."""
    like = torch.empty(shape if whole is None else whole, device="meta")  # whose strides are what an index consists of
    for axis, start in enumerate(first):
        like = like.narrow(axis, start, shape[axis])
    window = place.window(like)
    axes: list[tuple[int, int]] = []
    for size, stride in zip(window.shape, window.stride(), strict=True):
        if axes and axes[-1][1] == size * stride:
            axes[-1] = (axes[-1][0] * size, stride)
        elif size > 1:
            axes.append((size, stride))
    return int(window.storage_offset()), tuple(axes) or ((1, 1),)
