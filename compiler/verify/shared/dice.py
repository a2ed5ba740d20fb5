"""Random choices, each independent of all others: what scenarios and random programs are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

Choice = TypeVar("Choice")


class Dice:
    """Choices, the simplest one first: that is where shrinking leads.

    ``roll(count)`` gives a number from 0 to count - 1, and all choices are made of such numbers; those that it gave are
    kept, so that the same can be drawn again.
    """

    def __init__(self, roll: Callable[[int], int]) -> None:
        self._roll = roll
        self.rolled: list[int] = []

    def below(self, count: int) -> int:
        if count <= 1:
            return 0
        self.rolled.append(self._roll(count))
        return self.rolled[-1]

    def chance(self, percent: int) -> bool:
        """True in that many cases of a hundred; false is simpler."""
        return self.below(100) >= 100 - percent

    def pick(self, options: Sequence[Choice]) -> Choice:
        return options[self.below(len(options))]

    def weighted(self, options: Sequence[tuple[int, Choice]]) -> Choice:
        at = self.below(sum(weight for weight, _ in options))
        for weight, option in options:
            if at < weight:
                return option
            at -= weight
        raise AssertionError("weights add up")

    def shuffled(self, items: Sequence[Choice]) -> list[Choice]:
        """The items, in an order that shrinks to the given one."""
        left, mixed = list(items), []
        while left:
            mixed.append(left.pop(self.below(len(left))))
        return mixed


def dice_of(*seed: int) -> Dice:
    """Dice whose choices follow from the seed."""
    return Dice(Random(repr(seed)).randrange)
