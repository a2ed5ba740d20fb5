"""Scenario after scenario until one shows a difference, which is made as small as it gets.

Takes a contest and the space of its scenarios; gives a :class:`Result`. Prints nothing but a progress bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypothesis import Phase, given, seed, settings
from tqdm import tqdm  # type: ignore[import-untyped]

from optforge.compiler.fuzz.choices import independent
from optforge.compiler.verify.differential.plan import Scenario
from optforge.compiler.verify.differential.race import Contest, Difference, SpecRefuses, explain, race
from optforge.compiler.verify.differential.scenarios import Space, scenarios
from optforge.compiler.verify.differential.shrink import shrink

EXAMPLES = 200
CHANGING = "the other optimizer does not do the same each time"


@dataclass(frozen=True)
class Budget:
    """How much to try; ``patience`` is how many seconds of computing shrinking may take, on however busy a machine."""

    examples: int = EXAMPLES
    seconds: float = float("inf")
    seed: int = 0
    patience: float = 20.0


@dataclass(frozen=True)
class Finding:
    """A scenario, as small as possible, and what is different in it."""

    scenario: Scenario
    difference: Difference


@dataclass(frozen=True)
class Result:
    """``refused`` of the tried scenarios are such that the spec itself has no value."""

    tried: int
    refused: int
    finding: Finding | None = None


class Found(Exception):
    """Ends Hypothesis at the first scenario that fails."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        super().__init__()


class Examiner:
    """Races one scenario after the other, for as long as the budget says, and counts them."""

    def __init__(self, contest: Contest, budget: Budget, progress: Callable[[], object]) -> None:
        self.contest, self.budget, self.progress = contest, budget, progress
        self.end = time.monotonic() + budget.seconds
        self.tried = self.refused = 0

    def __call__(self, scenario: Scenario) -> None:
        """Raises :class:`Found` if something differs."""
        if time.monotonic() > self.end:
            return
        self.tried += 1
        self.progress()
        try:
            difference = race(self.contest, scenario)
        except SpecRefuses:
            self.refused += 1
            return
        if difference is not None:
            raise Found(scenario)

    def fails(self) -> Callable[[Scenario], bool]:
        """Whether a scenario fails, until patience ends: from then on none does."""
        end = time.process_time() + self.budget.patience

        def fails(scenario: Scenario) -> bool:
            if time.process_time() > end:
                return False
            try:
                return race(self.contest, scenario) is not None
            except SpecRefuses:
                return False

        return fails


def search(contest: Contest, space: Space, budget: Budget, past: Iterable[Scenario] = ()) -> Result:
    """Past failures first, as they were kept, then random scenarios; the first difference, shrunk."""
    name = contest.declaration.name
    with tqdm(total=budget.examples, unit=" scenarios", desc=name, disable=None, leave=False) as bar:
        examine = Examiner(contest, budget, bar.update)
        try:
            for scenario in past:
                examine(scenario)
            for_each(space, budget, examine)
        except Found as found:
            smallest = shrink(found.scenario, space, examine.fails())
            difference = explain(contest, smallest) or Difference("error", 0, CHANGING)
            return Result(examine.tried, examine.refused, Finding(smallest, difference))
    return Result(examine.tried, examine.refused)


def for_each(space: Space, budget: Budget, use: Callable[[Scenario], object]) -> None:
    """Do something with every scenario of a budget."""

    @seed(budget.seed)
    @settings(independent(budget.examples), phases=[Phase.generate])
    @given(scenarios(space))
    def each(scenario: Scenario) -> None:
        use(scenario)

    each()


def drawn(space: Space, budget: Budget) -> list[Scenario]:
    """The scenarios that :func:`search` would try as long as nothing differs."""
    found: list[Scenario] = []
    for_each(space, budget, found.append)
    return found
