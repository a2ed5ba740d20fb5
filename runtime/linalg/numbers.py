"""Elementwise functions that give the same bits wherever an element stands, and rounding without bias."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .hashing import _mix_
from .ieee import ieee


def power(x: Any, y: Any) -> Any:
    """x ** y elementwise, where either may be a number; the same bits wherever an element stands in memory.

    On the CPU, torch.pow rounds differently in a vector register and in the rest of a loop, so that a result would
    depend on what a parameter is batched with; exp and log do not. They run in float64, so that float32 results are
    correct to the last place and float64 ones to about |y log x| places.
    """
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        return ieee.power(x, y)
    like = x if isinstance(x, Tensor) and (x.ndim or not isinstance(y, Tensor)) else y
    exact = not isinstance(y, Tensor) and y in (-2, -1, -0.5, 0, 0.5, 1, 2, 3)
    if like.device.type != "cpu" or exact:
        return torch.pow(x, y)
    base = torch.as_tensor(x, dtype=torch.float64, device=like.device)
    exponent = torch.as_tensor(y, dtype=torch.float64, device=like.device)
    size = (base.abs().log() * exponent).exp()
    is_one = (exponent == 0) | (base == 1) | ((base == -1) & exponent.isinf())
    size = torch.where(is_one, 1.0, size)
    size = torch.where(base.signbit() & (exponent.fmod(2).abs() == 1), -size, size)
    no_number = (base < 0) & base.isfinite() & exponent.isfinite() & (exponent.frac() != 0)
    return torch.where(no_number, math.nan, size).to(like.dtype)


def round_stochastically(x: Tensor, dtype: torch.dtype, noise: Tensor) -> Tensor:
    """float32 x in `dtype` (bfloat16 or float16), rounded up or down so that the expected value is x.

    `noise` has an int32 for each element, which is overwritten: it is hashed here, so that numbers which are merely
    different make rounding random.
    """
    if dtype == torch.bfloat16:
        bits = _mix_(noise).bitwise_right_shift_(16).bitwise_and_(0xFFFF)
        rounded = bits.add_(x.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)
    else:
        # Steps of float16 are 2^(exponent - 11), where frexp puts the mantissa in [1/2, 1), but never below 2^-24.
        step = torch.frexp(x).exponent.clamp_min_(-13).sub_(11)
        scaled = torch.ldexp(x, -step)
        floor = scaled.floor()
        bits = _mix_(noise).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
        rounded = torch.ldexp(floor + (bits < (scaled - floor) * 2**24), step)
    return torch.where(x.isfinite(), rounded, x).to(dtype)
