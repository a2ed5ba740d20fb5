"""Random numbers as the equations of streams have them, one element at a time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from tests.references.loop import PerParameter, State

WORD, LONG = 2**32, 2**64


class Drawing(PerParameter):
    """Every parameter knows its number, of which its random numbers are made."""

    def active(self) -> Iterator[tuple[dict[str, Any], Tensor, State]]:
        numbers = {p: number for number, p in enumerate(p for group in self.param_groups for p in group["params"])}
        for group, p, state in super().active():
            state["number"] = numbers[p]
            yield group, p, state


def mixed(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % LONG
    x = (x ^ x >> 27) * 0x94D049BB133111EB % LONG
    return x ^ x >> 31


def hashed(x: int) -> int:
    x = (x ^ x >> 16) * 0x7FEB352D % WORD
    return (x ^ x >> 15) * 0x846CA68B % WORD


def drawn_bits(state: State, shape: tuple[int, ...], stream: int = 0, seed: int = 0) -> Iterator[int]:
    """32 random bits for each element of a parameter, in this step."""
    start = mixed((state["number"] + mixed(seed)) % LONG) + mixed(state["step"] + (zlib.crc32(b"step") << 30))
    bits = mixed(start % LONG)
    for index in range(math.prod(shape)):
        noise = ((bits >> 32 | 1) * index + bits) % WORD
        yield hashed(hashed(noise) ^ (4 * stream + 1) * 0x9E3779B9 % WORD)


def normal_of(bits: int) -> float:
    """The upper bit is the sign, and others how probable anything farther from 0 is; straight between 128 quantiles."""
    tail = bits >> 7 & 0xFFFFFF | 1
    octave = tail.bit_length() - 1
    place = (tail << 23 >> octave) - (1 << 23)
    low, high = (
        round(-NormalDist().inv_cdf((1 + (piece + (place >> 16)) / 128) * 2.0 ** (octave - 25)) * 2**20)
        for piece in (0, 1)
    )
    size = low + ((high - low) * (place & 0xFFFF) >> 16)
    return (-size if bits >> 31 else size) / 2**20


def normal(state: State, like: Tensor) -> Tensor:
    """Standard normal numbers in the shape of a parameter."""
    numbers = [normal_of(bits) for bits in drawn_bits(state, tuple(like.shape))]
    return torch.tensor(numbers, dtype=like.dtype).view(like.shape)
