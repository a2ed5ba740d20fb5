"""The statistics of a comparison, as plain data.

In: the runs of a folder. Out: a ``Verdict``: for each method its best learning rate by mean final validation loss over
seeds, the spread there, how soon it reaches the loss at which the baseline ends, and what its steps cost. Losses are
in nats per token. A number that is not known is None. No file is written and no opinion is worded here.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.gpt2.logs import Run
from examples.gpt2.verdict.entries import Entry, find_entries, group_by_method

SAME_RATE = 1e-6
"""Relative difference up to which two learning rates, or two factors between them, count as equal."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One learning rate of one method: the final losses of its finished runs by seed, and the seeds of the others."""

    lr: float
    finals: tuple[tuple[int, float], ...] = ()
    diverged: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()

    @property
    def losses(self) -> list[float]:
        """The final losses."""
        return [loss for _, loss in self.finals]

    @property
    def mean(self) -> float | None:
        """Mean final loss."""
        return statistics.fmean(self.losses) if self.finals else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (of the sample); None for fewer than two."""
        return statistics.stdev(self.losses) if len(self.finals) > 1 else None

    @property
    def low(self) -> float | None:
        """The lowest final loss."""
        return min(self.losses, default=None)

    @property
    def high(self) -> float | None:
        """The highest final loss."""
        return max(self.losses, default=None)


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a curve: a mean validation loss, and what it took to come there."""

    step: float
    tokens: float
    seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the steps of a method cost: medians over its runs at the best rate."""

    step_s: float
    optimizer_s: float
    optimizer_share: float
    tokens_per_s: float
    training_s: float
    state_bytes: float
    sent_bytes: float | None  # by the optimizer, a step and process; None where no run was sharded
    calls: float | None


@dataclass(frozen=True, slots=True)
class Method:
    """All there is to say of one optimizer.

    ``edge`` says that the best rate is the ``low`` or ``high`` end of those tried, or that only a ``single`` one was.
    ``curve`` is the mean over the seeds at the best rate; ``reach`` its first point at the baseline's final loss.
    """

    label: str
    entries: tuple[Entry, ...]
    rates: tuple[Rate, ...]
    best: Rate | None
    edge: str | None
    curve: tuple[Point, ...]
    reach: Point | None
    cost: Cost | None

    @property
    def best_entries(self) -> list[Entry]:
        """Its finished runs at the best rate."""
        return [each for each in self.entries if self.best and each.status == "finished" and each.lr == self.best.lr]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged comparison, the method with the lowest mean final loss first, those without a finished run last.

    ``target`` is the mean final loss of the baseline. ``ranges`` says how the learning rates of the methods compare:
    ``equal`` values, equal ``factors``, a ``single`` one for each, or ``unequal``.
    """

    folder: Path
    methods: tuple[Method, ...]
    wanted_baseline: str
    baseline: Method | None
    target: float | None
    ranges: str

    @property
    def entries(self) -> list[Entry]:
        """Every run of every method."""
        return [entry for method in self.methods for entry in method.entries]

    @property
    def runs(self) -> list[Run]:
        """Every run that was begun."""
        return [entry.run for entry in self.entries if entry.run]

    def with_status(self, status: str) -> list[Entry]:
        """The runs whose status is ``status``."""
        return [entry for entry in self.entries if entry.status == status]


def judge(folder: Path, *, baseline: str = "AdamW") -> Verdict:
    """The verdict on the runs below ``folder``; ``baseline`` is a label or name of the method to compare with."""
    groups = group_by_method(find_entries(folder))
    target, label = None, find_baseline(list(groups), baseline)
    if label is not None:
        best = choose_best(collect_rates(groups[label]))
        target = best.mean if best else None
    methods = [judge_method(name, entries, target) for name, entries in groups.items()]
    methods.sort(key=lambda method: (math.inf if method.best is None else method.best.mean or 0.0, method.label))
    return Verdict(
        folder=folder,
        methods=tuple(methods),
        wanted_baseline=baseline,
        baseline=next((method for method in methods if method.label == label), None),
        target=target,
        ranges=compare_ranges([[rate.lr for rate in method.rates] for method in methods]),
    )


def judge_method(label: str, entries: Sequence[Entry], target: float | None) -> Method:
    """The numbers of one method; ``target`` is the loss to be reached."""
    rates = collect_rates(entries)
    best = choose_best(rates)
    runs = [each.run for each in entries if each.run and best and each.status == "finished" and each.lr == best.lr]
    curve = average_curves(runs)
    return Method(
        label=label,
        entries=tuple(sorted(entries, key=lambda entry: (entry.lr, entry.seed))),
        rates=rates,
        best=best,
        edge=find_edge(rates, best),
        curve=curve,
        reach=None if target is None else first_reaching(curve, target),
        cost=measure_cost(runs) if runs else None,
    )


def find_baseline(labels: Sequence[str], wanted: str) -> str | None:
    """The label that is meant by ``wanted``: itself, or the only one of that name (``torch.optim.AdamW``)."""
    if wanted in labels:
        return wanted
    named = [label for label in labels if wanted in (label.split(" ")[0], label.split(" ")[0].rpartition(".")[2])]
    return named[0] if len(named) == 1 else None


def collect_rates(entries: Sequence[Entry]) -> tuple[Rate, ...]:
    """The learning rates of one method's runs, lowest first."""
    rates = sorted({entry.lr for entry in entries if not math.isnan(entry.lr)})
    found = []
    for lr in rates:
        here = sorted((entry for entry in entries if entry.lr == lr), key=lambda entry: entry.seed)
        found.append(
            Rate(
                lr,
                finals=tuple((entry.seed, entry.final_loss) for entry in here if entry.status == "finished"),
                diverged=tuple(entry.seed for entry in here if entry.status == "diverged"),
                pending=tuple(entry.seed for entry in here if entry.status in ("unfinished", "not started")),
            )
        )
    return tuple(found)


def choose_best(rates: Sequence[Rate]) -> Rate | None:
    """The rate with the lowest mean final loss among those at which no run diverged.

    Where some rates have more seeds than others, the means are over the seeds that all have, if there are any.
    """
    usable = [rate for rate in rates if rate.finals and not rate.diverged]
    common = set.intersection(*({seed for seed, _ in rate.finals} for rate in usable)) if usable else set()

    def mean(rate: Rate) -> float:
        return statistics.fmean(loss for seed, loss in rate.finals if not common or seed in common)

    return min(usable, key=mean, default=None)


def find_edge(rates: Sequence[Rate], best: Rate | None) -> str | None:
    """At which end of the rates tried ``best`` lies; a rate at which runs diverged was tried, a pending one was not."""
    tried = [rate.lr for rate in rates if rate.finals or rate.diverged]
    if best is None:
        return None
    if len(tried) == 1:
        return "single"
    return "low" if best.lr == tried[0] else "high" if best.lr == tried[-1] else None


def average_curves(runs: Sequence[Run]) -> tuple[Point, ...]:
    """The mean of the validations that all ``runs`` have at a step."""
    by_step = [{record.step: record for record in run.validations} for run in runs]
    shared = sorted(set.intersection(*(set(records) for records in by_step))) if by_step else []
    return tuple(
        Point(
            step=step,
            tokens=step * runs[0].header.tokens_per_step,
            seconds=statistics.fmean(records[step].elapsed_s for records in by_step),
            loss=statistics.fmean(records[step].loss for records in by_step),
        )
        for step in shared
    )


def first_reaching(curve: Sequence[Point], target: float) -> Point | None:
    """Where ``curve``, straight between its points, first is at ``target`` or below; None if it never is."""
    if curve and curve[0].loss <= target:
        return curve[0]
    for before, after in itertools.pairwise(curve):
        if before.loss > target >= after.loss:
            share = (before.loss - target) / (before.loss - after.loss)
            return Point(
                step=before.step + share * (after.step - before.step),
                tokens=before.tokens + share * (after.tokens - before.tokens),
                seconds=before.seconds + share * (after.seconds - before.seconds),
                loss=target,
            )
    return None


def measure_cost(runs: Sequence[Run]) -> Cost:
    """Medians over the steps of each run, then over ``runs``."""
    results = [run.result for run in runs if run.result]
    sent = [run.communication[-1] for run in runs if run.communication]
    return Cost(
        step_s=statistics.median(result.step_s for result in results),
        optimizer_s=statistics.median(statistics.median(step.optimizer_s for step in run.steps) for run in runs),
        optimizer_share=statistics.median(result.optimizer_share for result in results),
        tokens_per_s=statistics.median(result.tokens_per_s for result in results),
        training_s=statistics.median(result.training_s for result in results),
        state_bytes=statistics.median(result.optimizer_state_bytes for result in results),
        sent_bytes=statistics.median(record.bytes for record in sent) if sent else None,
        calls=statistics.median(sum(record.calls.values()) for record in sent) if sent else None,
    )


def compare_ranges(ranges: Sequence[Sequence[float]]) -> str:
    """Whether all methods were given the same choice of learning rates: see ``Verdict.ranges``."""
    if all(len(rates) <= 1 for rates in ranges):
        return "single"
    if any(len(rates) != len(ranges[0]) for rates in ranges):
        return "unequal"
    if all(_alike(rates, ranges[0]) for rates in ranges):
        return "equal"
    factors = [[rate / rates[0] if rates[0] else math.nan for rate in rates] for rates in ranges]
    return "factors" if all(_alike(each, factors[0]) for each in factors) else "unequal"


def overlap(first: Rate, second: Rate) -> bool:
    """Whether the order of two rates is open: their final losses overlap, or one has a single seed."""
    if len(first.finals) < 2 or len(second.finals) < 2:
        return True
    return max(first.losses) >= min(second.losses) and max(second.losses) >= min(first.losses)


def _alike(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=SAME_RATE) for a, b in zip(first, second, strict=True))
