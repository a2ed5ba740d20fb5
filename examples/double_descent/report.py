"""Numbers of the outcomes as text: the table that is printed, and the file of all of them.

Everything is a median over the draws, because the error of least squares at the threshold has a long tail.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from examples.double_descent.plan import FEATURES, THRESHOLD, WIDTHS
from examples.double_descent.run import LEAST_SQUARES, OPTIONS, Kind, Outcome, Run
from examples.files import write_whole

Results = dict[Run, Outcome]

BELOW: dict[Kind, int] = {"features": 30, "network": 6}
ABOVE: dict[Kind, int] = {"features": 140, "network": 32}
"""Sizes on either side of the threshold that the table shows: half of it or less, and twice or more."""


def collect(outcomes: Iterable[Outcome]) -> Results:
    """Outcomes by the run that they are of."""
    return {outcome.run: outcome for outcome in outcomes}


def test_error(outcome: Outcome) -> float:
    """Median over the draws."""
    return median(outcome.test)


def train_error(outcome: Outcome) -> float:
    """Median over the draws."""
    return median(outcome.train)


def curve(results: Results, kind: Kind, optimizer: str, steps: int) -> list[Outcome]:
    """The outcomes of one optimizer after so many steps, by size."""
    sizes = FEATURES if kind == "features" else WIDTHS
    return [results[Run(kind, optimizer, size, steps)] for size in sizes]


def format_table(results: Results, steps: int) -> str:
    """Test errors below, at and above the threshold, and the training error at it; one line per model and optimizer."""
    head = f"{'model':<10}{'optimizer':<15}{'below':>8}{'at':>8}{'above':>8}{'train error at':>17}"
    lines = [
        f"test error (median over draws) below, at and above the threshold, after {steps:,} steps",
        head,
        "-" * len(head),
        _table_line(results, "features", LEAST_SQUARES, 0),
    ]
    kinds: Sequence[Kind] = ("features", "network")
    lines += [_table_line(results, kind, name, steps) for kind in kinds for name in OPTIONS]
    return "\n".join(lines)


def _table_line(results: Results, kind: Kind, name: str, steps: int) -> str:
    below, at, above = (results[Run(kind, name, size, steps)] for size in (BELOW[kind], THRESHOLD[kind], ABOVE[kind]))
    tests = "".join(f"{test_error(outcome):8.2f}" for outcome in (below, at, above))
    return f"{kind:<10}{name:<15}{tests}{train_error(at):17.1e}"


def write_results(results: Results, path: Path) -> None:
    """All outcomes as JSON: a list of runs with the errors of every draw."""
    write_whole(path, json.dumps([asdict(outcome) for outcome in results.values()], indent=1) + "\n")
