"""Random programs examined one by one; one in which two ways differ is made as small as it gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from optforge.compiler.verify.shared.dice import dice_of, replay_dice
from optforge.compiler.verify.shared.shrink import shrink, simpler_numbers
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
