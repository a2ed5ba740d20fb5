"""The arrangement of parameters in buckets, kept from step to step, and which bucket has whose states.

In: a parameter batch of a step or event. Out: its buckets, in which the states of every parameter of the batch are
there. The buckets of steps are settled: their states lie in buffers, once until a state is replaced, moved or freed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from ..batching.buckets import Bucket, Stored, _ParameterStates
from ..batching.crossing import _arrange_for
from ..batching.parameter_batch import ParameterBatch
from ..contract.interface import Kernel
from ..contract.precision import _States
from ..exchange.communication import Communication
from ..routing.places import Slot
from .first_values import _give_first_values, _require_fitting

_Slots = Mapping[Tensor, Slot]


class Arrangement:
    """The buckets that an optimizer has made."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[Any, ...], list[Bucket]] = {}
        self.owners: dict[Tensor, Bucket] = {}  # who was settled last with the states of a parameter

    def __len__(self) -> int:
        return len(self._buckets)

    def buckets(self, batch: ParameterBatch, kernel: Kernel, layout: str, slots: _Slots) -> list[Bucket]:
        """The buckets of the batch in which the kernel runs in this layout."""
        crossing = (kernel.layout, kernel.along, kernel.inputs, kernel.outputs) if batch.parts else None
        key = (layout, crossing, tuple(map(id, batch.params)))
        buckets = self._buckets.get(key)
        if buckets is None:
            if len(self) > 1000:  # gradients that come and go make new sets of parameters without end
                self._buckets.clear()
            listed = [(p, slots[p]) for p in batch.params]
            buckets = self._buckets[key] = _arrange_for(kernel, layout, listed)
        return buckets

    def settled(
        self, batch: ParameterBatch, slots: _Slots, state: _ParameterStates, sent: Communication
    ) -> list[tuple[Bucket, Stored | None]]:
        """The buckets of a step of the batch, settled where they have whole parameters, with their states.

        Raises:
            ValueError: what lies there cannot be a state of the parameter.
        """
        step, declared = batch.rule.step, batch.states
        buckets = self.buckets(batch, step, step.layout, slots)
        if not declared:
            return [(bucket, None) for bucket in buckets]
        pairs = _with_states(buckets, declared, state)
        if any(stored is None for _, stored in pairs):
            # This replaces states in which nothing has been counted.
            _give_first_values(batch, slots, state, sent)
            for bucket, stored in _with_states(buckets, declared, state):
                if stored is None and bucket.entries[0][1].is_viewable:
                    self._settle(bucket, declared, state)
            pairs = _with_states(buckets, declared, state)
        return pairs

    def _settle(self, bucket: Bucket, declared: _States, state: _ParameterStates) -> None:
        if not bucket.takes_over(self.owners.get(bucket.params[0]), declared, state):
            taken = set(bucket.params)
            for p in bucket.params:
                self.owners.get(p, bucket).release(state, taken)
            bucket.settle(state, declared)
        self.owners |= dict.fromkeys(bucket.params, bucket)

    def require_fitting(self, batch: ParameterBatch, slots: _Slots, state: _ParameterStates) -> None:
        """ValueError for what lies there and cannot be a state of a parameter of the batch; nothing changes."""
        owners = {id(owner): owner for p in batch.params if (owner := self.owners.get(p)) is not None}
        settled = {key for key, owner in owners.items() if owner.is_settled(state)}
        _require_fitting(batch, [p for p in batch.params if id(self.owners.get(p)) not in settled], slots, state)

    def require_states(
        self, batch: ParameterBatch, slots: _Slots, state: _ParameterStates, sent: Communication
    ) -> None:
        """Gives the parameters of the batch the states they have not yet, without which an event cannot run.

        Raises:
            ValueError: what lies there cannot be a state of the parameter.
        """
        owners = {id(owner): owner for owner in map(self.owners.get, batch.params)}
        unsettled = [owner for owner in owners.values() if owner is None or not owner.is_settled(state)]
        for owner in unsettled:
            if owner is not None:
                owner.release(state)
        if unsettled:
            _give_first_values(batch, slots, state, sent)

    def forget(self, params: Collection[Tensor], state: _ParameterStates) -> None:
        """Drops what was made for these parameters; states that lay beside theirs get memory of their own."""
        left = {id(owner): owner for p in params if (owner := self.owners.get(p)) is not None}
        for owner in left.values():
            owner.release(state)
        self.owners = {p: owner for p, owner in self.owners.items() if id(owner) not in left and p not in params}
        self._buckets.clear()


def _with_states(
    buckets: Iterable[Bucket], declared: _States, state: _ParameterStates
) -> list[tuple[Bucket, Stored | None]]:
    """The buckets, each with the tensors of all states if it is settled."""
    return [(each, each.stored(state) if len(each.buffers) == len(declared) else None) for each in buckets]
