"""A verdict as the data that the page embeds and draws from: nested lists and dictionaries that JSON knows.

In: a ``Verdict``. Out: the same numbers, unrounded, with null for what is not known, and the training losses made
small enough to be drawn. Nothing is judged here.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from examples.gpt2.logs import Run
from examples.gpt2.verdict.entries import Entry
from examples.gpt2.verdict.judge import Method, Point, Rate, Verdict

SMOOTHING = 0.06
"""Width of the window that smooths the training loss, as a share of the run."""

DRAWN_POINTS = 200
"""About how many points of a training loss are drawn."""


def collect_numbers(verdict: Verdict) -> dict[str, Any]:
    """Everything that the page shows as a number."""
    header = verdict.runs[0].header
    numbers: dict[str, Any] = {
        "unit": header.unit,
        "corpus": header.corpus,
        "parameters": header.parameters,
        "tokens_per_step": header.tokens_per_step,
        "baseline": verdict.baseline.label if verdict.baseline else None,
        "target": verdict.target,
        "ranges": verdict.ranges,
        "methods": [_method(method) for method in verdict.methods],
        "runs": [_run(method.label, entry, verdict) for method in verdict.methods for entry in method.entries],
    }
    return {name: _finite(value) for name, value in numbers.items()}


def smooth_training(runs: Sequence[Run]) -> list[Point]:
    """The training loss, averaged over ``runs`` and a centred window that is narrower at both ends, thinned out."""
    length = min((len(run.steps) for run in runs), default=0)
    losses = [statistics.fmean(run.steps[i].loss for run in runs) for i in range(length)]
    half = max(1, round(SMOOTHING * length / 2))
    tokens = runs[0].header.tokens_per_step if runs else 0
    points = []
    for i in range(0, length, max(1, length // DRAWN_POINTS)):
        record = runs[0].steps[i]
        seconds = statistics.fmean(run.steps[i].elapsed_s for run in runs)
        window = losses[max(0, i - half) : i + half + 1]
        points.append(Point(record.step, record.step * tokens, seconds, statistics.fmean(window)))
    return points


def spread_curve(method: Method) -> list[tuple[float, float]]:
    """Lowest and highest validation loss over the seeds at each point of the curve of ``method``."""
    by_step = [
        {record.step: record.loss for record in entry.run.validations} for entry in method.best_entries if entry.run
    ]
    found = []
    for point in method.curve:
        losses = [losses[int(point.step)] for losses in by_step]
        found.append((min(losses), max(losses)))
    return found


def _method(method: Method) -> dict[str, Any]:
    runs = [entry.run for entry in method.best_entries if entry.run]
    return {
        "label": method.label,
        "edge": method.edge,
        "best": _rate(method.best) if method.best else None,
        "rates": [_rate(rate) for rate in method.rates],
        "curve": [dataclasses.astuple(point) for point in method.curve],
        "spread": spread_curve(method),
        "training": [dataclasses.astuple(point) for point in smooth_training(runs)],
        "reach": dataclasses.asdict(method.reach) if method.reach else None,
        "cost": dataclasses.asdict(method.cost) if method.cost else None,
    }


def _rate(rate: Rate) -> dict[str, Any]:
    derived = {name: getattr(rate, name) for name in ("mean", "deviation", "low", "high")}
    return {**dataclasses.asdict(rate), **derived}


def _run(label: str, entry: Entry, verdict: Verdict) -> dict[str, Any]:
    run = entry.run
    return {
        "folder": entry.folder.relative_to(verdict.folder).as_posix(),
        "method": label,
        "lr": entry.lr,
        "rest_lr": entry.config.optimizer.rest_lr,
        "seed": entry.seed,
        "status": entry.status,
        "steps": run.steps[-1].step if run and run.steps else 0,
        "validations": [dataclasses.astuple(record) for record in run.validations] if run else [],
        "result": dataclasses.asdict(run.result) if run and run.result else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
