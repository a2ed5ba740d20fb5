"""Arithmetic of Python numbers as IEEE 754 has it, where Python's own operators raise or forget a NaN.

Generated functions write `x / y`, `math.sqrt(x)` or `min(x, y)` where the compiler knows that they mean the same, and
`ieee.divide(x, y)`, `ieee.sqrt(x)` or `ieee.minimum(x, y)` where it does not: 1 / 0 is infinite, the root of a negative
number is NaN, and so is the smaller of a number and NaN. Scalars that are 0-d tensors are computed by torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def _of_scalars(plain: Callable[..., float], wide: Callable[..., Tensor]) -> Callable[..., Any]:
    """`plain` for numbers, `wide` where one of them is a 0-d tensor, in float64 on its device."""

    def function(*operands: Any) -> Any:
        for operand in operands:
            if isinstance(operand, Tensor):
                return wide(*(torch.as_tensor(x, dtype=torch.float64, device=operand.device) for x in operands))
        return plain(*operands)

    return function


def _divide(x: float, y: float) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)


def _power(x: float, y: float) -> float:
    if abs(y) == 0.5:  # as in torch, also of -inf
        return _sqrt(x) if y > 0 else _divide(1.0, _sqrt(x))
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:  # a fractional power of a negative number, or a negative power of zero
        return math.nan if x else math.copysign(math.inf, x if y % 2 == 1 else 1.0)


def _wide_power(x: Tensor, y: Tensor) -> Tensor:
    root = x.sqrt()
    return torch.where(y == 0.5, root, torch.where(y == -0.5, 1 / root, torch.pow(x, y)))


def _sqrt(x: float) -> float:
    return math.sqrt(x) if not x < 0 else math.nan


def _remainder(x: float, y: float) -> float:
    return x % y if y else math.nan


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    if x == 0:
        return -math.inf
    return math.log(x) if not x < 0 else math.nan


def _log1p(x: float) -> float:
    if x == -1:
        return -math.inf
    return math.log1p(x) if not x < -1 else math.nan


def _minimum(x: float, y: float) -> float:
    return min(x, y) if x == x and y == y else math.nan


def _maximum(x: float, y: float) -> float:
    return max(x, y) if x == x and y == y else math.nan


ieee = SimpleNamespace(
    divide=_of_scalars(_divide, torch.div),
    power=_of_scalars(_power, _wide_power),
    remainder=_of_scalars(_remainder, torch.remainder),
    sqrt=_of_scalars(_sqrt, torch.sqrt),
    exp=_of_scalars(_exp, torch.exp),
    log=_of_scalars(_log, torch.log),
    log1p=_of_scalars(_log1p, torch.log1p),
    cos=_of_scalars(lambda x: math.cos(x) if math.isfinite(x) else math.nan, torch.cos),
    sin=_of_scalars(lambda x: math.sin(x) if math.isfinite(x) else math.nan, torch.sin),
    floor=_of_scalars(lambda x: math.copysign(math.floor(x), x) if math.isfinite(x) else x, torch.floor),
    round=_of_scalars(lambda x: math.copysign(round(x), x) if math.isfinite(x) else x, torch.round),
    sign=_of_scalars(lambda x: float((x > 0) - (x < 0)), torch.sign),
    minimum=_of_scalars(_minimum, torch.minimum),
    maximum=_of_scalars(_maximum, torch.maximum),
    clamp=_of_scalars(lambda x, low, high: _minimum(_maximum(x, low), high), torch.clamp),
)
