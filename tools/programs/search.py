"""Random programs examined one by one; one in which two ways differ is made as small as it gets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from optforge.compiler.verify.shared.dice import Dice, dice_of
from optforge.compiler.verify.shared.shrink import shrink
from tools.programs.differential import Disagreement, Shares, examine
from tools.programs.programs import grow_file

FEW_GRAPHS = Shares()
PATIENCE = 60.0  # seconds that shrinking may take


def examine_random(*seed: int, shares: Shares = FEW_GRAPHS, patience: float = PATIENCE) -> None:
    """Everything that must hold for the program of this seed; raises the :class:`Disagreement` of a small one."""
    dice = dice_of(*seed)
    try:
        examine(grow_file(dice), shares)
    except Disagreement as found:
        raise Shrinking(shares, patience).smallest(dice.rolled, found) from None


@dataclass(frozen=True)
class Failing:
    """The numbers that dice roll for a program, and what differs in it."""

    rolled: tuple[int, ...]
    disagreement: Disagreement


class Shrinking:
    """Looks for smaller programs in which the same way differs, until patience ends."""

    def __init__(self, shares: Shares, patience: float) -> None:
        self.shares = shares
        self.end = time.monotonic() + patience
        self.tried: set[tuple[int, ...]] = set()

    def smallest(self, rolled: Sequence[int], found: Disagreement) -> Disagreement:
        self.best = Failing(tuple(rolled), found)
        return shrink(self.best, lambda failing: simpler_numbers(failing.rolled), self.retry).disagreement

    def retry(self, rolled: Sequence[int]) -> Failing | None:
        """What differs in the program of these numbers, if that takes fewer or smaller ones than the best so far."""
        if time.monotonic() > self.end:
            return None
        dice = replay_dice(rolled)
        program = grow_file(dice)
        taken = tuple(dice.rolled)
        if taken in self.tried or (len(taken), taken) >= (len(self.best.rolled), self.best.rolled):
            return None
        self.tried.add(taken)
        try:
            examine(program, self.shares)
        except Disagreement as found:
            if found.way == self.best.disagreement.way:
                self.best = Failing(taken, found)
                return self.best
        return None


def replay_dice(rolled: Iterable[int]) -> Dice:
    """Dice that roll these numbers, as far as they are allowed, and then zeros."""
    numbers = iter(rolled)
    return Dice(lambda count: min(next(numbers, 0), count - 1))


def simpler_numbers(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Shorter sequences of choices, and then those of smaller numbers."""
    sizes = [size for size in (len(numbers) >> power for power in range(1, len(numbers).bit_length())) if size]
    for size in sizes:
        for end in range(len(numbers), 0, -size):
            yield (*numbers[: max(0, end - size)], *numbers[end:])
    for size in (8, 1):
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            if any(part):
                yield (*numbers[:start], *[0] * len(part), *numbers[start + size :])
    for place, number in enumerate(numbers):
        for less in dict.fromkeys((number // 2, number - 1)):
            if 0 < less < number:
                yield (*numbers[:place], less, *numbers[place + 1 :])
