"""Random numbers that kernels draw: functions of the noise of an element and a key, the same bits everywhere.

Noise is an int32 for each element, of which merely different numbers are asked for; it is hashed here, and never
overwritten. All arithmetic is of whole numbers, and each result a multiple of a power of 2 that float32 holds: so
neither the device, nor the dtype, nor a compiler that fuses a product with a sum can change it.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .hashing import _mix_, _wrap

_OCTAVES, _PIECES = 24, 128  # of a probability, and the straight pieces of the normal distribution in each


def _draw(noise: Tensor, key: int) -> Tensor:
    """32 random bits for each element, of which the lower ones are the worse."""
    bits = _mix_(noise.clone())
    return _mix_(bits.bitwise_xor_(_wrap((int(key) + 1) * 0x9E3779B9, 32)))


def uniform(noise: Tensor, key: int, dtype: torch.dtype) -> Tensor:
    """A number between 0 and 1 for each element: one of the odd multiples of 2^-24."""
    odd = _draw(noise, key).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).bitwise_or_(1)
    return odd.to(dtype).mul_(2**-24)


def sign_noise(noise: Tensor, key: int, dtype: torch.dtype) -> Tensor:
    """1 or -1 for each element."""
    return _draw(noise, key).bitwise_right_shift_(31).bitwise_or_(1).to(dtype)


def normal(noise: Tensor, key: int, dtype: torch.dtype) -> Tensor:
    """A number with the standard normal distribution for each element: a multiple of 2^-20 of at most 5.42.

    The sign is one bit. 23 others say how probable anything farther from 0 is, (2 n + 1) / 2^25. Between the quantiles
    of 128 probabilities in each octave the distribution goes straight, at most 4e-6 beside the normal one.
    """
    bits = _draw(noise, key)
    tail = (bits >> 7).bitwise_and_(0xFFFFFF).bitwise_or_(1).to(torch.float32).view(torch.int32)  # exact: 24 bits
    place = (tail >> 16).sub_(127 << 7)  # the exponent, and the upper 7 bits below it
    table = _quantiles(noise.device)
    low = table[place]
    size = table[place.add_(1)].sub_(low).mul_(tail.bitwise_and_(0xFFFF)).bitwise_right_shift_(16).add_(low)
    sign = bits.bitwise_right_shift_(31)
    return size.bitwise_xor_(sign).sub_(sign).to(dtype).mul_(2**-20)


def corner(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """The first elements of x (..., rows, cols) along dim, which is kept."""
    x = x if dim == -1 else x[..., :1, :]
    return x if dim == -2 else x[..., :1]


@lru_cache(maxsize=64)
def _quantiles(device: torch.device) -> Tensor:
    """2^20 times the distances from 0 with the probabilities that begin the pieces, to whole numbers.

    No value is as near to the middle between two as to depend on how the machine computes logarithms.
    """
    tails = ((1 + piece / _PIECES) * 2.0 ** (octave - 25) for octave in range(_OCTAVES) for piece in range(_PIECES))
    found = [round(-NormalDist().inv_cdf(tail) * 2**20) for tail in (*tails, 0.5)]
    with _disable_current_modes():  # it outlives the graph that is being recorded
        return torch.tensor(found, dtype=torch.int32, device=device)
