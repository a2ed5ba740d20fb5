"""A long sequence of tokens that may lie in several arrays, such as the memory maps of shards.

In: one-dimensional arrays of unsigned integers. Out: ``Tokens``, from which stretches are copied as int64, also across
the border of two arrays. Only what is looked at is read. A token outside of the vocabulary is a ``TextError`` that
names the file, since an embedding would answer it with a crash far from its cause.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError


class Tokens:
    """The arrays ``parts``, read as if each followed the one before; ``names`` are their files, for messages."""

    def __init__(self, parts: Sequence[NDArray[Any]], *, vocab_size: int, names: Sequence[str]) -> None:
        if not parts or len(parts) != len(names):
            raise ValueError(f"expected one name for each array, got {len(parts)} arrays and {len(names)} names")
        self.parts = tuple(parts)
        self.names = tuple(names)
        self.vocab_size = vocab_size
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: slice) -> NDArray[np.int64]:
        """A copy of the stretch ``place``, which must go forward without gaps."""
        start, stop, stride = place.indices(len(self))
        if stride != 1:
            raise ValueError(f"expected a stretch without gaps, got a stride of {stride}")
        stretch: NDArray[np.int64] = self.windows(np.array([start]), max(stop - start, 0))[0]
        return stretch

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The stretches of ``length`` tokens from each of ``starts`` on, a row each."""
        found = np.empty((len(starts), length), dtype=np.int64)
        for row, start in zip(found, starts.tolist(), strict=True):
            self._copy(start, row)
        if found.size and found.max() >= self.vocab_size:
            self._refuse_first_outsider(starts, found)
        return found

    def _copy(self, start: int, target: NDArray[np.int64]) -> None:
        if start < 0 or start + len(target) > len(self):
            raise IndexError(f"tokens {start} to {start + len(target)} of {len(self)}")
        index, filled = bisect_right(self._ends, start), 0
        while filled < len(target):
            part = self.parts[index]
            offset = start + filled - (self._ends[index] - len(part))
            piece = part[offset : offset + len(target) - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            index += 1

    def _refuse_first_outsider(self, starts: NDArray[np.int64], found: NDArray[np.int64]) -> None:
        row, column = np.argwhere(found >= self.vocab_size)[0].tolist()
        place = int(starts[row]) + column
        index = bisect_right(self._ends, place)
        inside = place - (self._ends[index] - len(self.parts[index]))
        raise TextError(
            f"{self.names[index]}: expected tokens below the vocabulary size {self.vocab_size}, "
            f"found {found[row, column]} as token number {inside}"
        )
