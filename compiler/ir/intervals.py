"""Intervals of numbers: what is known of a scalar without its value, and what each operator makes of it.

Bounds are floating-point numbers that belong to the interval (`x > 0` is `x >= 5e-324`), so that what rounds correctly
keeps them: rounding never changes the order of two results. Functions of the C library are one unit in the last place
wider. A number of Python that is no float (`t`, `rows`) is small enough to be one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from optforge.compiler.ir import ieee

INFINITY = math.inf
TINY = math.ulp(0.0)  # the smallest number above 0
WHOLE_LIMIT = 2.0**53  # up to here the next whole number is 1 away


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers from ``low`` to ``high``; none where ``low > high``.

    ``has_nan`` and ``has_zero`` say whether NaN and 0 may be among them, ``is_whole`` that all finite ones are whole.
    """

    low: float = -INFINITY
    high: float = INFINITY
    has_nan: bool = True
    has_zero: bool = True
    is_whole: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", self.low + 0.0)  # 0 for -0
        object.__setattr__(self, "high", self.high + 0.0)
        if self.has_zero and not self.low <= 0 <= self.high:
            object.__setattr__(self, "has_zero", False)
        elif not self.has_zero and self.low == 0:
            object.__setattr__(self, "low", 1.0 if self.is_whole else TINY)
        elif not self.has_zero and self.high == 0:
            object.__setattr__(self, "high", -1.0 if self.is_whole else -TINY)

    @property
    def is_empty(self) -> bool:
        """Whether no number is left: such a place is never reached."""
        return self.low > self.high and not self.has_nan

    @property
    def is_finite(self) -> bool:
        return not self.has_nan and self.low > -INFINITY and self.high < INFINITY

    @property
    def may_be_infinite(self) -> bool:
        return self.low == -INFINITY or self.high == INFINITY

    @property
    def least(self) -> float:
        """The smallest absolute value; of numbers other than 0 at least the smallest there is."""
        if self.has_zero:
            return 0.0
        return max(self.low, -self.high, 1.0 if self.is_whole else TINY)

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def narrowed(self, other: Interval) -> Interval:
        """The numbers that both hold."""
        return Interval(
            max(self.low, other.low),
            min(self.high, other.high),
            self.has_nan and other.has_nan,
            self.has_zero and other.has_zero,
            self.is_whole or other.is_whole,
        )


def above(x: float, is_whole: bool) -> float:
    """The smallest number that is larger than x: of whole numbers the next one."""
    return x + 1 if is_whole and x.is_integer() and abs(x) < WHOLE_LIMIT else math.nextafter(x, INFINITY)


def below(x: float, is_whole: bool) -> float:
    """The largest number that is smaller than x."""
    return -above(-x, is_whole)


ANYTHING = Interval()
NOTHING = Interval(INFINITY, -INFINITY, has_nan=False)
ZERO = Interval(0.0, 0.0, has_nan=False, is_whole=True)
COUNT = Interval(1.0, WHOLE_LIMIT, has_nan=False, is_whole=True)


def exactly(x: float) -> Interval:
    """The interval of one number."""
    if x != x:
        return replace(NOTHING, has_nan=True)
    return Interval(x, x, has_nan=False, is_whole=x.is_integer())


def hull(parts: Iterable[Interval]) -> Interval:
    """The smallest interval that holds them all."""
    kept = [part for part in parts if not part.is_empty]
    return Interval(
        min((part.low for part in kept), default=INFINITY),
        max((part.high for part in kept), default=-INFINITY),
        any(part.has_nan for part in kept),
        any(part.has_zero for part in kept),
        all(part.is_whole for part in kept),
    )


# What operators make of intervals


def span_corners(corners: Iterable[float], has_nan: bool, has_zero: bool, is_whole: bool) -> Interval:
    """From the smallest to the largest corner; one that is NaN (0 times infinity) stands beside others that count."""
    found = [0.0 if corner != corner else corner for corner in corners]
    return Interval(min(found), max(found), has_nan, has_zero, is_whole)


def add(x: Interval, y: Interval) -> Interval:
    low, high = x.low + y.low, x.high + y.high
    clashes = (x.high == INFINITY and y.low == -INFINITY) or (x.low == -INFINITY and y.high == INFINITY)
    return Interval(
        -INFINITY if low != low else low,
        INFINITY if high != high else high,
        x.has_nan or y.has_nan or clashes,
        is_whole=x.is_whole and y.is_whole,
    )


def negate(x: Interval) -> Interval:
    return replace(x, low=-x.high, high=-x.low)


def subtract(x: Interval, y: Interval) -> Interval:
    return add(x, negate(y))


def multiply(x: Interval, y: Interval) -> Interval:
    clashes = (x.has_zero and y.may_be_infinite) or (y.has_zero and x.may_be_infinite)
    return span_corners(
        (a * b for a in (x.low, x.high) for b in (y.low, y.high)),
        x.has_nan or y.has_nan or clashes,
        not x.least * y.least > 0,  # also where the product of two small numbers is 0
        x.is_whole and y.is_whole,
    )


def divide(x: Interval, y: Interval) -> Interval:
    clashes = (x.has_zero and y.has_zero) or (x.may_be_infinite and y.may_be_infinite)
    has_nan = x.has_nan or y.has_nan or clashes
    if y.low <= 0 <= y.high:
        return Interval(has_nan=has_nan, has_zero=x.has_zero or not ieee.divide(x.least, y.largest) > 0)
    corners = [ieee.divide(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    return span_corners(corners, has_nan, not x.least / y.largest > 0, is_whole=False)


def power(x: Interval, y: Interval) -> Interval:
    if x.low < 0:
        return even_or_odd_power(x, y)
    corners = [(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    values = [ieee.power(a, b) for a, b in corners]
    # pow rounds faithfully, so that a bound that it meets exactly stands.
    known = [a in (0, 1, INFINITY) or b in (0, 1, INFINITY, -INFINITY) for a, b in corners]
    low = min(v if k else math.nextafter(v, 0.0) for v, k in zip(values, known, strict=True))
    low = -INFINITY if x.has_zero and y.low < 0 else low  # an odd power of -0
    high = max(v if k else math.nextafter(v, INFINITY) for v, k in zip(values, known, strict=True))
    return Interval(low, high, x.has_nan or y.has_nan, is_whole=x.is_whole and y.is_whole and y.low >= 0)


def even_or_odd_power(x: Interval, y: Interval) -> Interval:
    """Powers of numbers that may be negative: known for one whole exponent only."""
    if y.low != y.high or y.has_nan or not y.low.is_integer():
        return ANYTHING
    size = power(absolute(x), y)
    return hull((size, negate(size))) if y.low % 2 == 1 else size


def absolute(x: Interval) -> Interval:
    low = max(x.low, -x.high, 0.0 if x.has_zero else x.least)
    return replace(x, low=low, high=x.largest) if x.low <= x.high else x


def square(x: Interval) -> Interval:
    return multiply(absolute(x), absolute(x))


def sqrt(x: Interval) -> Interval:
    low, high = math.sqrt(max(x.low, 0.0)), math.sqrt(max(x.high, 0.0))
    return Interval(low, high, x.has_nan or x.low < 0, x.has_zero)


def increasing(function: Callable[[float], float], fixed: float) -> Callable[[Interval], Interval]:
    """A growing function of the C library that is exact at ``fixed``."""

    def interval(x: Interval) -> Interval:
        low, high = function(x.low), function(x.high)
        low = low if x.low == fixed else math.nextafter(low, -INFINITY)
        high = high if x.high == fixed else math.nextafter(high, INFINITY)
        return Interval(low, high, x.has_nan)

    return interval


def exp(x: Interval) -> Interval:
    found = increasing(ieee.exp, 0.0)(x)
    return replace(found, low=max(found.low, 0.0))


def log(x: Interval) -> Interval:
    found = increasing(ieee.log, 1.0)(replace(x, low=max(x.low, 0.0), high=max(x.high, 0.0)))
    return replace(found, has_nan=x.has_nan or x.low < 0)


def log1p(x: Interval) -> Interval:
    found = increasing(ieee.log1p, 0.0)(replace(x, low=max(x.low, -1.0), high=max(x.high, -1.0)))
    return replace(found, has_nan=x.has_nan or x.low < -1)


def atan(x: Interval) -> Interval:
    return increasing(math.atan, 0.0)(x)


def tanh(x: Interval) -> Interval:
    return Interval(-1.0 if x.low < 0 else 0.0, 1.0 if x.high > 0 else 0.0, x.has_nan)


def wave(x: Interval) -> Interval:
    """Sine and cosine."""
    return Interval(-1.0, 1.0, x.has_nan or x.may_be_infinite)


def sign(x: Interval) -> Interval:
    low, high = ieee.sign(x.low), ieee.sign(x.high)
    return Interval(min(low, 0.0) if x.has_nan else low, max(high, 0.0) if x.has_nan else high, False, is_whole=True)


def floor(x: Interval) -> Interval:
    return Interval(ieee.floor(x.low), ieee.floor(x.high), x.has_nan, is_whole=True)


def round_to_even(x: Interval) -> Interval:
    return Interval(ieee.round_to_even(x.low), ieee.round_to_even(x.high), x.has_nan, is_whole=True)


def remainder(x: Interval, y: Interval) -> Interval:
    has_nan = x.has_nan or y.has_nan or y.has_zero or x.may_be_infinite
    return Interval(min(y.low, 0.0), max(y.high, 0.0), has_nan, is_whole=x.is_whole and y.is_whole)


def minimum(x: Interval, y: Interval) -> Interval:
    return Interval(
        min(x.low, y.low), min(x.high, y.high), x.has_nan or y.has_nan,
        x.has_zero or y.has_zero, x.is_whole and y.is_whole,
    )  # fmt: skip


def maximum(x: Interval, y: Interval) -> Interval:
    return negate(minimum(negate(x), negate(y)))


def clamp(x: Interval, low: Interval, high: Interval) -> Interval:
    return minimum(maximum(x, low), high)
