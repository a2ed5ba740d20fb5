"""Modes: which parameters have other weights in place of those that are trained.

An event may put other weights there, such as a mean for evaluation, and another one take them away again (it says which
it `undoes`). How often each has been counted for a parameter says what it shows, so that checkpoints and copies know it
as well. A step of weights that are not those of training would spoil them, and so would either event called twice, or
any other that changes weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from .batching.counters import Count, Counters
from .batching.given import GivenTensors
from .batching.parameter_batch import ParameterBatch
from .batching.states import _has_begun
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


def _require_training(batches: Iterable[ParameterBatch], counts: _Counts, what: str = "a step") -> None:
    """RuntimeError if a parameter that ``what`` is about to move shows other weights than those that are trained."""
    for batch in batches:
        for pair in _pairs_of(batch.rule):
            if any(_shows(pair, p, counts) for p in batch.params):
                message = f"the weights are what {pair[0]}() has put in place: call {pair[1]}() before {what}"
                raise RuntimeError(message)


_MODES = ("train", "eval")


class Firing:
    """An event that is about to be fired, and for which parameters it has something to do."""

    def __init__(
        self,
        owner: str,
        rules: Sequence[Rule],
        event: str,
        counters: Counters,
        state: Mapping[Any, Any],
        arguments: Mapping[str, Any],
    ) -> None:
        """ValueError if no rule has the event; of the arguments nothing is asked yet."""
        self.events = {rule.name: found for rule in rules if (found := rule.event(event))}
        if not self.events:
            raise ValueError(f"{owner} has no event {event!r}")
        self.kernels = {name: found.kernel for name, found in self.events.items()}
        self.event, self.rules, self.counters, self.state = event, rules, counters, state
        self.blocked: dict[str, Rule] = {}
        self.given = GivenTensors(event, self.events, arguments)

    @cached_property
    def counts(self) -> _Counts:
        """How often the events that come in pairs were fired."""
        return _mode_counts(self.rules, self.counters, self.state)

    def reads_gradient(self, rule: Rule, p: Tensor) -> bool:
        """Whether the event, or what gives p's states their first values before it, is computed from its gradient."""
        init_reads = rule.init is not None and "grad" in rule.init.inputs
        return "grad" in self.kernels[rule.name].inputs or (init_reads and not _has_begun(self.state.get(p, {}), rule))

    def takes_part(self, rule: Rule, p: Tensor) -> bool:
        """Whether p has what the event needs, and what it does has not been done already."""
        if rule.name not in self.events or not self.given.is_for(rule, p):
            return False
        if p.grad is None and self.reads_gradient(rule, p):
            return False
        pairs = [pair for pair in _pairs_of(rule) if self.event in pair and len({*pair}) > 1]
        is_due = all(_shows(pair, p, self.counts) is (self.event == pair[1]) for pair in pairs)
        if not is_due:
            self.blocked[rule.name] = rule
        return is_due

    def moves(self, rule: Rule) -> bool:
        """Whether the event changes weights, and is none of those that show other ones."""
        is_mode = any(self.event in pair for pair in _pairs_of(rule))
        return not is_mode and "weight" in self.kernels[rule.name].outputs

    def require_due(self, batches: Sequence[ParameterBatch]) -> None:
        """RuntimeError if nothing is left to do because it has been done already, or cannot be undone.

        The same if it changes weights that are not the ones that are trained. A trainer enters `train` and `eval` as
        often as it likes: the mode that there is, is entered by doing nothing.
        """
        if self.blocked and not batches and self.event not in _MODES:
            raise RuntimeError(_why_not_due(self.blocked.values(), self.event))
        moved = [batch for batch in batches if self.moves(batch.rule)]
        _require_training(moved, self.counts, f"{self.event}()")


def _why_not_due(rules: Iterable[Rule], event: str) -> str:
    """What to tell who fires an event that is due for no parameter."""
    shows, hides = next(pair for rule in rules for pair in _pairs_of(rule) if event in pair)
    if event == shows:
        return f"{event}() has been called already, and once more would spoil the weights: call {hides}() first"
    return f"{event}() takes away what {shows}() has put in place, and nothing is in place"
