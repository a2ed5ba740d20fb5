"""Random bits without a generator: numbers that differ, however little, become numbers that have nothing in common.

Both functions are one-to-one. Each has two rounds in which upper bits are put into lower ones, and a product carries
all of them upwards again. The multipliers were found by search, by others, to leave the least pattern. What overflows
wraps, as it does in every integer arithmetic of torch, so that all devices and compilers give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _wrap(number: int, bits: int) -> int:
    """The signed number of so many bits that is equal to the given one in all of them."""
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half


def _mix(x: Tensor) -> Tensor:
    """Random bits for each number of int64."""
    x = (x ^ ((x >> 30) & (1 << 34) - 1)) * _wrap(0xBF58476D1CE4E5B9, 64)
    x = (x ^ ((x >> 27) & (1 << 37) - 1)) * _wrap(0x94D049BB133111EB, 64)
    return x ^ ((x >> 31) & (1 << 33) - 1)


def _mix_(x: Tensor) -> Tensor:
    """Puts random bits in the place of each number of int32, best in the upper half; takes as much memory as x has."""
    high = (x >> 16).bitwise_and_(0xFFFF)
    x.bitwise_xor_(high).mul_(0x7FEB352D)
    torch.bitwise_right_shift(x, 15, out=high)
    return x.bitwise_xor_(high.bitwise_and_(0x1FFFF)).mul_(_wrap(0x846CA68B, 32))
