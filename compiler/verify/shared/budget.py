"""How much may be tried before something counts as right."""

from __future__ import annotations

from dataclasses import dataclass

EXAMPLES = 200


@dataclass(frozen=True, slots=True)
class Budget:
    """How many random cases a claim may cost, and the seed that makes them."""

    examples: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SearchBudget:
    """How much to try; ``patience`` is how many seconds of computing shrinking may take, on however busy a machine."""

    examples: int = EXAMPLES
    seconds: float = float("inf")
    seed: int = 0
    patience: float = 20.0
