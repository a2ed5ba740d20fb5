"""Shared states: one number for all parameters of a rule, of which each keeps a copy.

Copies in the states of parameters are what every checkpoint, and every tool that reads one, can hold. They are equal
between two steps: whoever did not take part in one gets the new value, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..batching.buckets import _ParameterStates
from ..batching.copies import _copy_to_all, _shared_of
from ..batching.counters import Counters, _is_capturing
from ..batching.parameter_batch import ParameterBatch
from ..batching.roster import Roster
from ..contract.hypers import _plain
from ..contract.interface import Rule
from ..routing.places import Slot


def _require_one_value(rules: Iterable[Rule], roster: Roster) -> None:
    """ValueError if groups have different values of a hyper from which follows what their parameters share.

    Not inside of a capture, which must not wait for hypers that are on the device.
    """
    for rule in () if _is_capturing() else rules:
        groups = [each.group for each in roster.listings if any(slot.rule is rule for slot in each.slots)]
        for name, kept in {name: state for state in rule.states for name in state.shared or ()}.items():
            first, *others = [_plain(name, group[name]) for group in groups] or [None]
            other = next((each for each in others if each != first), first)
            if other != first:
                raise ValueError(
                    f"groups have {name}={first!r} and {name}={other!r}, and their parameters share {kept.name!r}, "
                    "which follows from it: give all of them the same"
                )


def _share(
    batches: Sequence[ParameterBatch], slots: Mapping[Tensor, Slot], state: _ParameterStates, counters: Counters
) -> None:
    """Gives what parameters share, as those of the batches have it after their step, to all that have begun."""
    for rule in {id(batch.rule): batch.rule for batch in batches if any(_shared_of(batch.rule))}.values():
        widest = max((batch for batch in batches if batch.rule is rule), key=lambda batch: batch.compute_dtype.itemsize)
        begun = [p for p in counters.begun() if p in slots and slots[p].rule is rule and p in state]
        for kept in _shared_of(rule):
            _copy_to_all(state[widest.params[0]][kept.name], [state[p][kept.name] for p in begun])
