"""The polynomials by which `orthogonalize` maps singular values: those of its methods, or others that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..contract.hypers import _suggest

Triples = Sequence[tuple[float, float, float]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
EXACT_QUINTIC = (2.0, -1.5, 0.5)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),  # and so on
)
POLAR_EXPRESS_SAFETY = 1.01

_METHODS = ("newton_schulz", "polar_express", "exact", "svd")
_SCALES = ("frobenius", "schatten4")
_MOST_STEPS = 1000


def _triples(method: str, steps: float, coefficients: object = None) -> Triples:
    """The coefficients (a, b, c) of each of the steps x -> a x + b x³ + c x⁵ on singular values; those given, if any.

    Raises:
        ValueError: the method is unknown, the number of steps is none, or the coefficients are no triples of numbers.
    """
    if coefficients is not None:
        return _read_triples(coefficients)
    number = _whole_number(steps)
    if method == "newton_schulz":
        return [NEWTON_SCHULZ] * number
    if method == "exact":
        return [EXACT_QUINTIC] * number
    if method != "polar_express":
        raise ValueError(f"unknown method {method!r} of orthogonalize{_suggest(method, _METHODS)}")
    table = [POLAR_EXPRESS[min(k, len(POLAR_EXPRESS) - 1)] for k in range(number)]
    s = POLAR_EXPRESS_SAFETY
    return [(a / s, b / s**3, c / s**5) for a, b, c in table[:-1]] + table[-1:]


def _whole_number(steps: float) -> int:
    """The number of steps, as whatever counts is one: a number, a tensor, or one that is being recorded."""
    try:
        number = int(steps)
        is_right = 0 <= number <= _MOST_STEPS and bool(steps == number)
    except (TypeError, ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise ValueError(f"invalid steps={steps!r} of orthogonalize: a whole number is expected, up to {_MOST_STEPS}")
    return number


def _read_triples(coefficients: object) -> Triples:
    rows = coefficients if isinstance(coefficients, (tuple, list)) else [None]
    triples = [tuple(row) for row in rows if isinstance(row, (tuple, list))]
    if len(triples) < len(rows) or not all(len(t) == 3 and all(hasattr(n, "__float__") for n in t) for t in triples):
        raise ValueError("invalid coefficients of orthogonalize: for each step three numbers are expected")
    return triples


class _Divisor(NamedTuple):
    """What divides a matrix before the first step: its Frobenius norm, or its Schatten 4-norm, by margin, plus eps."""

    margin: float = 1.0
    eps: float = 0.0
    schatten4: bool = False


def _divisor(method: str, coefficients: Triples | None, eps: float, scale: str) -> _Divisor:
    """The divisor of these arguments.

    Raises:
        ValueError: eps is no number from 0 on, or there is no such scale.
    """
    try:
        number = float(eps)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not number >= 0:
        raise ValueError(f"invalid eps={eps!r} of orthogonalize: a number is expected, 0 or more")
    if scale not in _SCALES:
        raise ValueError(f"unknown scale {scale!r} of orthogonalize{_suggest(scale, _SCALES)}")
    margin = POLAR_EXPRESS_SAFETY if method == "polar_express" and coefficients is None else 1.0
    return _Divisor(margin, number, scale == "schatten4")
