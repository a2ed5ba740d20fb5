"""Modes: which parameters have other weights in place of those that are trained.

An event may put other weights there, such as a mean for evaluation, and another one take them away again (it says which
it `undoes`). How often each has been counted for a parameter says what it shows, so that checkpoints and copies know it
as well. A step of weights that are not those of training would spoil them, and so would either event called twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .batching.counters import Count, Counters
from .batching.parameter_batch import ParameterBatch
from .contract.interface import Rule

_Counts = Mapping[str, Mapping[Any, Count]]  # of events, by parameter


def _pairs_of(rule: Rule) -> Iterator[tuple[str, str]]:
    """The events that show other weights, each with the one that undoes it."""
    return ((event.undoes, event.name) for event in rule.events if event.undoes)


def _mode_counts(rules: Iterable[Rule], counters: Counters, state: Mapping[Any, Any]) -> _Counts:
    """How often the events that come in pairs were fired; without such events nothing is looked up."""
    names = {name for rule in rules for pair in _pairs_of(rule) for name in pair}
    return {name: counters.known(f"{name}_step", state) for name in names}


def _shows(pair: tuple[str, str], p: Tensor, counts: _Counts) -> bool:
    """Whether what the first event of the pair has put in place is there."""
    fired = [counts[name].get(p) for name in pair]
    shown, hidden = (count.number if count else 0 for count in fired)
    return shown % 2 == 1 if pair[0] == pair[1] else shown > hidden


def _require_training(batches: Iterable[ParameterBatch], counts: _Counts) -> None:
    """RuntimeError if a parameter that is about to step shows other weights than those that are trained."""
    for batch in batches:
        for pair in _pairs_of(batch.rule):
            if any(_shows(pair, p, counts) for p in batch.params):
                raise RuntimeError(f"the weights are what {pair[0]}() has put in place: call {pair[1]}() before a step")


def _is_due(rule: Rule, event: str, p: Tensor, counts: _Counts) -> bool:
    """Whether the event has something to do for p: it is not there yet, or there to be taken away."""
    return all(
        _shows(pair, p, counts) is (event == pair[1]) for pair in _pairs_of(rule) if event in pair and len({*pair}) > 1
    )


def _why_not_due(rules: Iterable[Rule], event: str) -> str:
    """What to tell who fires an event that is due for no parameter."""
    shows, hides = next(pair for rule in rules for pair in _pairs_of(rule) if event in pair)
    if event == shows:
        return f"{event}() has been called already, and once more would spoil the weights: call {hides}() first"
    return f"{event}() takes away what {shows}() has put in place, and nothing is in place"
