"""First values: the states that parameters have not yet, computed of the weights of the first step.

In: the work of a step or event and the states of its parameters. Out: states in which every state of the work is
there and can be written to. A state that cannot be that of its parameter is an error before anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..batching.buckets import _ParameterStates
from ..batching.crossing import Owners, _arranged_for
from ..batching.states import _given, _has_begun, _is_blank, _made, _require_states
from ..batching.work import Work
from ..exchange.drive import _drive
from ..placement.slots import _crosses
from ..routing.places import Slot, _wider
from .calls import Call
from .crossing import _begin_call


def _give_first_values(work: Work, slots: Mapping[Tensor, Slot], state: _ParameterStates, owners: Owners) -> None:
    """Gives the parameters of the work the states that they have not yet, or not yet in this precision.

    Raises:
        ValueError: a state that is there cannot be that of the parameter; nothing has changed.
    """
    given = {p: _given(state[p], work.rule, work.states) for p in work.params}
    for p, names in given.items():
        _require_states(p, slots[p], {name: state[p][name] for name in names}, work.states)
        state[p].update({name: state[p][name].contiguous() for name in names if _is_blank(state[p][name])})
    # Where first values cross between ranks, all of them must take part, whatever a rank has of the states.
    together = {p for p in work.params if work.rule.init and _crosses(slots[p], work.rule.init)}
    together = {p for p in together if not _has_begun(state[p], work.rule)}
    new = [p for p in work.params if len(given[p]) < len(work.states) or p in together]
    if not new:
        return
    fresh: dict[Tensor, dict[str, Any]] = {
        p: dict(_made(weight, slots[p], work.states)) for p, weight in zip(new, work.weights(new), strict=True)
    }
    init = work.rule.init
    if init is not None:
        first = Work(work.rule, work.precision, work.dtype, work.device, 1, 1, work.hypers, new, parts=work.parts)
        scalars, layout = first.scalars(init, {}, {}), _wider(work.rule.step.layout, init.layout)
        buckets = _arranged_for(init, layout, [(p, slots[p]) for p in new], owners)
        calls = [Call(init, bucket, first, fresh) for bucket in buckets]
        for call in calls:
            if call.bucket.sharding is None:
                call.execute(scalars)
        _drive(_begin_call(call, scalars) for call in calls if call.bucket.sharding is not None)
    for p in new:
        state[p].update({name: x for name, x in fresh[p].items() if name not in given[p]})
