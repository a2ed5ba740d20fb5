"""First values: the states that parameters have not yet, computed of the weights of the first step.

In: a parameter batch of a step or event and the states of its parameters. Out: states in which every state of the
batch is there and can be written to. A state that cannot be that of its parameter is an error before anything has
changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..batching.buckets import _ParameterStates
from ..batching.copies import _copy_to_all, _find_copy, _shared_of
from ..batching.crossing import _arrange_for
from ..batching.parameter_batch import ParameterBatch
from ..batching.states import _find_given, _has_begun, _is_blank, _leave_to_owner, _make_states, _require_states
from ..exchange.communication import Communication
from ..exchange.drive import _drive
from ..placement.slots import _crosses
from ..routing.places import Slot, _wider
from .calls import Call
from .crossing import _begin_call


def _require_fitting(
    batch: ParameterBatch, params: Iterable[Tensor], slots: Mapping[Tensor, Slot], state: _ParameterStates
) -> None:
    """ValueError for a state that cannot be that of its parameter; those that owners have may be on their way."""
    for p in params:
        names = _find_given(state[p], batch.rule, batch.states) - slots[p].owned
        _require_states(p, slots[p], {name: state[p][name] for name in names}, batch.states)


def _give_first_values(
    batch: ParameterBatch, slots: Mapping[Tensor, Slot], state: _ParameterStates, sent: Communication
) -> None:
    """Gives the parameters of the batch the states that they have not yet, or not yet in this precision.

    Raises:
        ValueError: a state that is there cannot be that of the parameter; nothing has changed.
    """
    for p in batch.params:
        _leave_to_owner(slots[p], state.setdefault(p, {}))
    _require_fitting(batch, batch.params, slots, state)
    given = {p: _find_given(state[p], batch.rule, batch.states) for p in batch.params}
    for p, names in given.items():
        state[p].update({name: state[p][name].contiguous() for name in names if _is_blank(state[p][name])})
    # Where first values cross between ranks, all of them must take part, whatever a rank has of the states.
    together = {p for p in batch.params if batch.rule.init and _crosses(slots[p], batch.rule.init)}
    together = {p for p in together if not _has_begun(state[p], batch.rule)}
    new = [p for p in batch.params if len(given[p]) < len(batch.states) or p in together]
    if not new:
        return
    fresh: dict[Tensor, dict[str, Any]] = {
        p: dict(_make_states(weight, slots[p], batch.states)) for p, weight in zip(new, batch.weights(new), strict=True)
    }
    init = batch.rule.init
    if init is not None:
        first = ParameterBatch(
            batch.rule, batch.precision, batch.dtype, batch.device, 1, 1, batch.hypers, new, parts=batch.parts,
            noise=batch.noise and batch.noise.of_first_values,
        )  # fmt: skip
        scalars, layout = first.scalars(init, {}, {}), _wider(batch.rule.step.layout, init.layout)
        buckets = _arrange_for(init, layout, [(p, slots[p]) for p in new])
        calls = [Call(init, bucket, first, fresh) for bucket in buckets]
        for call in calls:
            if call.bucket.sharding is None:
                call.execute(scalars)
        _drive((_begin_call(call, scalars) for call in calls if call.bucket.sharding is not None), sent)
    for kept in _shared_of(batch.rule):
        if (begun := _find_copy(kept, batch.rule, slots, state)) is not None:
            _copy_to_all(begun, [entry[kept.name] for entry in fresh.values()])
    for p in new:
        state[p].update({name: x for name, x in fresh[p].items() if name not in given[p]})
