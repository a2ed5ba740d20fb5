"""Arithmetic of numbers as IEEE 754 has it: every operation has a result, where Python's own may raise.

A quotient by zero is infinite, or NaN for 0 / 0; what is too large is infinite; what has no real value is NaN; the
smaller and the larger of a number and NaN are NaN. This is what scalars mean in a spec, whoever computes them: the
constant folder, the interpreter, generated Python, or a graph. Python's operators differ in nothing else.
"""

from __future__ import annotations

import math


def divide(x: float, y: float) -> float:
    """x / y."""
    try:
        return x / y
    except ZeroDivisionError:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)


def power(x: float, y: float) -> float:
    """x ** y: NaN for a fractional power of a negative number, infinite for a negative power of zero.

    The power of one half is the square root, also of -inf, as in torch.
    """
    if abs(y) == 0.5:
        return sqrt(x) if y > 0 else divide(1.0, sqrt(x))
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:
        if x != 0:
            return math.nan
        return math.copysign(math.inf, x) if y % 2 == 1 else math.inf


def square(x: float) -> float:
    """x times x."""
    return x * x


def remainder(x: float, y: float) -> float:
    """x modulo y, with the sign of y; NaN for y = 0."""
    try:
        return x % y
    except ZeroDivisionError:
        return math.nan


def sqrt(x: float) -> float:
    """The square root; NaN of a negative number."""
    return math.nan if x < 0 else math.sqrt(x)


def exp(x: float) -> float:
    """The exponential; infinite where it is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def log(x: float) -> float:
    """The natural logarithm; -inf of zero, NaN of a negative number."""
    if x == 0:
        return -math.inf
    return math.nan if x < 0 else math.log(x)


def log1p(x: float) -> float:
    """The natural logarithm of 1 + x; -inf of -1, NaN of what is below."""
    if x == -1:
        return -math.inf
    return math.nan if x < -1 else math.log1p(x)


def cos(x: float) -> float:
    """The cosine; NaN of an infinite number."""
    return math.nan if math.isinf(x) else math.cos(x)


def sin(x: float) -> float:
    """The sine; NaN of an infinite number."""
    return math.nan if math.isinf(x) else math.sin(x)


def floor(x: float) -> float:
    """The largest whole number not above x; x itself where it is not finite."""
    return math.copysign(math.floor(x), x) if math.isfinite(x) else x


def round_to_even(x: float) -> float:
    """The nearest whole number, of two the even one; x itself where it is not finite."""
    return math.copysign(round(x), x) if math.isfinite(x) else x


def sign(x: float) -> float:
    """1, -1, or 0, which is also the sign of NaN, as in torch."""
    return float((x > 0) - (x < 0))


def minimum(x: float, y: float) -> float:
    """The smaller of two; NaN if either is."""
    return x + y if x != x or y != y else min(x, y)


def maximum(x: float, y: float) -> float:
    """The larger of two; NaN if either is."""
    return x + y if x != x or y != y else max(x, y)


def clamp(x: float, low: float, high: float) -> float:
    """x limited to low .. high; high wins where low > high."""
    return minimum(maximum(x, low), high)
