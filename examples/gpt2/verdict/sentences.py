"""What may honestly be said of a comparison, in sentences.

In: a ``Verdict``. Out: a headline, findings, and cautions: orders that are not decided, learning rates at the edge of
what was tried, unequal ranges, runs that diverged or are missing, disturbed times. Plain text, no markup.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from examples.gpt2.verdict.entries import Entry
from examples.gpt2.verdict.judge import Method, Verdict, overlap

RANGES = {
    "equal": "All methods were given the same learning rates.",
    "factors": "The learning rates of all methods are the same multiples of each method's own lowest rate, "
    "so all were searched equally widely; where the search is centred is each method's own.",
    "single": "Each method ran with one learning rate only; none was tuned here.",
    "unequal": "The learning rates tried are not equally many or equally wide for all methods, "
    "so some were tuned more thoroughly than others.",
}
"""By ``Verdict.ranges``."""

EDGES = {
    "low": "the lowest that was tried, so a lower one may be better",
    "high": "the highest that was tried, so a higher one may be better",
    "single": "the only one that was tried, so it is not tuned",
}
"""By ``Method.edge``."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The text of a verdict."""

    headline: str
    findings: tuple[str, ...]
    cautions: tuple[str, ...]
    ranges: str


def word(verdict: Verdict, *, jobs: int = 1) -> Wording:
    """The text for ``verdict``; ``jobs`` is how many runs shared the machine."""
    judged = [method for method in verdict.methods if method.best]
    cautions = [
        *describe_ties(judged),
        *describe_seeds(judged),
        *describe_edges(judged),
        *([RANGES["unequal"]] if verdict.ranges == "unequal" else []),
        *describe_gaps(verdict),
        *describe_timing(verdict, jobs),
    ]
    findings = [describe_lead(verdict, judged[0]), describe_speed(verdict, judged[0])] if judged else []
    return Wording(
        headline=describe_leader(judged),
        findings=tuple(finding for finding in findings if finding),
        cautions=tuple(cautions),
        ranges=RANGES[verdict.ranges],
    )


def describe_leader(judged: Sequence[Method]) -> str:
    """The headline: who is ahead, or that this is open."""
    if not judged:
        return "No run has finished yet"
    first = judged[0]
    if len(judged) == 1:
        return f"{first.label} is the only method with a finished run"
    rivals = [method.label for method in judged[1:] if _undecided(first, method)]
    if not rivals:
        return f"{first.label} reaches the lowest validation loss"
    if _seeds(first) < 2 and len(rivals) == len(judged) - 1:
        return f"{first.label} is ahead, but the order is not decided"
    return f"{list_words([first.label, *rivals])} lead; their order is not decided"


def describe_lead(verdict: Verdict, first: Method) -> str:
    """The loss of the best method, and how far it is below the baseline's."""
    assert first.best and first.best.mean is not None
    spread = "" if first.best.deviation is None else f" ± {first.best.deviation:.4f}"
    text = f"{first.label} ends at {first.best.mean:.4f}{spread} nats per {verdict.runs[0].header.unit}"
    text += f" (learning rate {first.best.lr:g}, {count(_seeds(first), 'seed')})"
    base = verdict.baseline
    if base is None or verdict.target is None or base is first:
        return f"{text}."
    return f"{text}, {verdict.target - first.best.mean:.4f} below {base.label}."


def describe_speed(verdict: Verdict, first: Method) -> str:
    """When the best method reaches the baseline's final loss, in steps and seconds."""
    base = verdict.baseline
    if base is None or base is first or verdict.target is None or first.reach is None or not base.curve:
        return ""
    steps, seconds = first.reach.step / base.curve[-1].step, first.reach.seconds / base.curve[-1].seconds
    return (
        f"It reaches {base.label}'s final loss of {verdict.target:.4f} after {steps:.0%} of {base.label}'s steps "
        f"and {seconds:.0%} of its training time."
    )


def describe_ties(judged: Sequence[Method]) -> Iterable[str]:
    """Neighbours in the ranking whose losses overlap, and how much losses that do not overlap say."""
    groups: list[list[Method]] = []
    for method in judged:
        if groups and _undecided(groups[-1][-1], method) and _seeds(method) > 1 and _seeds(groups[-1][-1]) > 1:
            groups[-1].append(method)
        else:
            groups.append([method])
    for group in groups:
        if len(group) > 1:
            names = list_words([method.label for method in group])
            each = "" if len(group) == 2 else " from one to the next"
            yield f"The final losses of {names} overlap{each}: with these seeds their order is not decided."
    fewest = min((_seeds(method) for method in judged), default=0)
    if len(judged) > 1 and 2 <= fewest <= 4:
        chance = math.comb(2 * fewest, fewest) // 2
        yield (
            f"Two equally good methods with {fewest} seeds each would look cleanly apart by chance "
            f"once in {chance} comparisons."
        )


def describe_seeds(judged: Sequence[Method]) -> Iterable[str]:
    """Methods with a single seed, and numbers of seeds that differ."""
    single = [method.label for method in judged if _seeds(method) == 1]
    if single and len(judged) > 1:
        yield f"{list_words(single)}: one seed only, which says nothing of the spread; the order is not decided."
    counts = {_seeds(method) for method in judged}
    if len(counts) > 1:
        each = list_words([f"{method.label} {_seeds(method)}" for method in judged])
        yield f"The numbers of seeds at the best learning rate differ: {each}."


def describe_edges(judged: Sequence[Method]) -> Iterable[str]:
    """Best learning rates at the end of what was tried."""
    for method in judged:
        if method.edge and method.best:
            yield f"{method.label}: the best learning rate ({method.best.lr:g}) is {EDGES[method.edge]}."


def describe_gaps(verdict: Verdict) -> Iterable[str]:
    """Runs without a final loss, and a baseline that is not there."""
    for status, verb in (("diverged", "diverged"), ("unfinished", "not finished"), ("not started", "not started")):
        entries = verdict.with_status(status)
        if entries:
            yield f"{count(len(entries), 'run')} {verb}: {'; '.join(_places(verdict, entries))}."
    if verdict.baseline is None:
        yield f"No method is called {verdict.wanted_baseline}, so there is no baseline to compare with."
    elif verdict.target is None:
        yield f"{verdict.baseline.label} has no finished run, so there is no baseline to compare with."


def describe_timing(verdict: Verdict, jobs: int) -> Iterable[str]:
    """What makes seconds less comparable than losses."""
    if jobs > 1:
        yield f"{jobs} runs shared the machine at a time, which disturbs seconds; losses do not depend on it."
    if len({str(run.header.machine) for run in verdict.runs}) > 1:
        yield "The runs come from different machines, so seconds cannot be compared; losses can."
    if len({str(run.header.versions) for run in verdict.runs}) > 1:
        yield "The runs come from different versions of the software: see each run below."


def list_words(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _undecided(first: Method, second: Method) -> bool:
    return bool(first.best and second.best and overlap(first.best, second.best))


def _seeds(method: Method) -> int:
    return len(method.best.finals) if method.best else 0


def _places(verdict: Verdict, entries: Sequence[Entry]) -> Iterable[str]:
    """Where ``entries`` lie in the grid: a phrase for each method and learning rate, with the seeds."""
    folders = {entry.folder for entry in entries}
    for method in verdict.methods:
        own = [entry for entry in method.entries if entry.folder in folders]
        for lr, group in itertools.groupby(own, key=lambda entry: entry.lr):
            seeds = [_seed(entry) for entry in group]
            yield f"{method.label} at {lr:g}, {'seed' if len(seeds) == 1 else 'seeds'} {list_words(seeds)}"


def _seed(entry: Entry) -> str:
    last = entry.run.steps[-1].step if entry.run and entry.run.steps else 0
    return f"{entry.seed} (step {last:,})" if entry.status == "diverged" else str(entry.seed)
