"""Random streams in NumPy: what they mean, bit by bit.

An element of a parameter has a number of 32 bits, its noise, that follows from the seed, the parameter's number in the
optimizer, what is counted and how often, and the element's index. A draw hashes the noise with a key, which is the
stream's, and makes of the bits a multiple of a power of 2 that float32 holds: only whole numbers are computed with, so
that the numbers are the same on every machine. Nothing here is shared with what a target runs.
"""

from __future__ import annotations

import zlib
from functools import cache
from statistics import NormalDist
from typing import Any

from optforge.compiler.ir.meanings.arrays import lazy_numpy
from optforge.compiler.ir.types import FULL, PER_COL, PER_ROW, SCALAR, Shape

FIRST = "(first values)"  # what is counted where states get their first values, once
SIDES: tuple[Shape, ...] = (FULL, PER_ROW, PER_COL, SCALAR)  # each with streams of its own
SEGMENTS = 7  # bits: 128 straight pieces for each octave of a probability
OCTAVES = 24
MASK64, MASK32 = (1 << 64) - 1, (1 << 32) - 1


def key_of(stream: int, side: Shape) -> int:
    """What tells the draws of a stream for elements, rows, columns or matrices from all others."""
    return len(SIDES) * stream + SIDES.index(side)


def mixed(x: int) -> int:
    """64 random bits for each number."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def noise(seed: int, number: int, counter: str, count: int, shape: tuple[int, ...]) -> Any:
    """The noise of a parameter of this shape when its counter is at a count."""
    np = lazy_numpy()
    turn = mixed((count + (zlib.crc32(counter.encode()) << 30)) & MASK64)
    key = mixed((number + mixed(seed)) & MASK64)
    bits = mixed((key + turn) & MASK64)
    index = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape).astype(np.uint32)
    return index * np.uint32(bits >> 32 & MASK32 | 1) + np.uint32(bits & MASK32)


def hashed(x: Any) -> Any:
    """32 random bits for each number, best in the upper half."""
    np = lazy_numpy()
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    return (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)


def bits_of(found: Any, key: float) -> Any:
    np = lazy_numpy()
    return hashed(hashed(found.astype(np.uint32)) ^ np.uint32((int(key) + 1) * 0x9E3779B9 & MASK32))


def reference_uniform(found: Any, key: float) -> Any:
    np = lazy_numpy()
    return (bits_of(found, key) >> np.uint32(8) | np.uint32(1)).astype(np.float64) / 2**24


def reference_sign_noise(found: Any, key: float) -> Any:
    np = lazy_numpy()
    return np.where(bits_of(found, key) >> np.uint32(31), -1.0, 1.0)


@cache
def quantiles() -> Any:
    """-2^20 times the quantiles of the probabilities that begin the pieces, down from 1/2, to whole numbers."""
    size = 1 << SEGMENTS
    shares = [(1 + i % size / size) * 2.0 ** (i // size - OCTAVES - 1) for i in range(OCTAVES * size + 1)]
    return lazy_numpy().array([round(-NormalDist().inv_cdf(p) * 2**20) for p in shares])


def reference_normal(found: Any, key: float) -> Any:
    """The upper bit is the sign; the 23 bits below say how probable anything farther from 0 is: (2 n + 1) / 2^25.

    Between the quantiles of 128 probabilities in each octave it goes straight, rounded down to multiples of 2^-20.
    """
    np = lazy_numpy()
    bits = bits_of(found, key).astype(np.int64)
    odd = (bits >> 7) & (1 << 24) - 1 | 1
    octave = np.floor(np.log2(odd)).astype(np.int64)
    within = (odd << 23 >> octave) - (1 << 23)  # the share of the octave, of 2^23
    piece, rest = (octave << SEGMENTS) + (within >> 16), within & 0xFFFF
    low, high = quantiles()[piece], quantiles()[piece + 1]
    size = low + ((high - low) * rest >> 16)
    return np.where(bits >> 31, -size, size) / 2.0**20


def reference_corner(x: Any, axis: str) -> Any:
    return {"all": x[:1, :1], "row": x[:, :1], "col": x[:1]}[axis]
