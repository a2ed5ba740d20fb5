"""Scenario after scenario until one shows a difference, which is made as small as it gets.

Takes a pair and the space of its scenarios; gives a :class:`Result`. Prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from optforge.compiler.verify.differential.plan import Scenario
from optforge.compiler.verify.differential.scenarios import Space, draw_scenario
from optforge.compiler.verify.differential.shrink import shrink_scenario
from optforge.compiler.verify.differential.side_by_side import Difference, Pair, SpecRefuses, explain, run_both
from optforge.compiler.verify.shared.budget import SearchBudget
from optforge.compiler.verify.shared.dice import dice_of

CHANGING = "the other optimizer does not do the same each time"


@dataclass(frozen=True)
class Mismatch:
    """A scenario, as small as possible, and what is different in it."""

    scenario: Scenario
    difference: Difference


@dataclass(frozen=True)
class Result:
    """``refused`` of the tried scenarios are such that the spec itself has no value."""

    tried: int
    refused: int
    finding: Mismatch | None = None


def search(
    pair: Pair,
    space: Space,
    budget: SearchBudget,
    past: Iterable[Scenario] = (),
    progress: Callable[[int], object] = lambda tried: None,
) -> Result:
    """Past failures first, as they were kept, then random scenarios; the first difference, shrunk.

    ``progress`` is told how many scenarios have been tried.
    """
    end = time.monotonic() + budget.seconds
    tried = refused = 0
    for scenario in chain(past, draw_scenarios(space, budget)):
        if time.monotonic() > end:
            break
        tried += 1
        progress(tried)
        try:
            difference = run_both(pair, scenario)
        except SpecRefuses:
            refused += 1
            continue
        if difference is not None:
            smallest = shrink_scenario(scenario, space, still_fails(pair, budget.patience))
            difference = explain(pair, smallest) or Difference("error", 0, CHANGING)
            return Result(tried, refused, Mismatch(smallest, difference))
    return Result(tried, refused)


def still_fails(pair: Pair, patience: float) -> Callable[[Scenario], bool]:
    """Whether a scenario fails, until patience ends: from then on none does."""
    end = time.process_time() + patience

    def fails(scenario: Scenario) -> bool:
        if time.process_time() > end:
            return False
        try:
            return run_both(pair, scenario) is not None
        except SpecRefuses:
            return False

    return fails


def draw_scenarios(space: Space, budget: SearchBudget) -> Iterator[Scenario]:
    """The scenarios of a budget, each drawn independently of those before."""
    return (draw_scenario(dice_of(budget.seed, number), space) for number in range(budget.examples))
