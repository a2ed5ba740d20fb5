"""What can be found out about a promise: proved, tested on so many cases, refuted by values, or unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Proved:
    """It holds for all values; ``reason`` says why in a few words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tested:
    """It held in so many cases."""

    cases: int


@dataclass(frozen=True, slots=True)
class Refuted:
    """It does not hold for these values: names and what they are, in the order in which they are shown."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing was found out, for this reason."""

    reason: str


Verdict: TypeAlias = Proved | Tested | Refuted | Unknown
