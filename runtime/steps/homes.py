"""Homes: the states that one rank owns, brought to it, shown to checkpoints and taken from them.

Who owns the matrices of a parameter follows from the shapes of all parameters and the number of ranks. So it may change
where parameters come or go; then states follow. All ranks must call these functions alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..batching.crossing import _ranks_of
from ..batching.states import _is_blank, _leave_to_owner
from ..contract.interface import State
from ..contract.precision import _compute_dtype
from ..exchange.agreement import Reach
from ..exchange.collectives import _deliver
from ..exchange.communication import Communication
from ..exchange.packing import Message, Shuffle
from ..exchange.sharding import Ranks
from ..placement.layouts import _is_dtensor
from ..placement.slots import LocalSlot
from ..routing.places import Slot

_StatesOf = Mapping[Any, MutableMapping[str, Any]]
_OwnedState = tuple[Any, LocalSlot, State]  # a state of a parameter that its owner has


def _list_owned(slots: Mapping[Any, Slot]) -> dict[Ranks, list[_OwnedState]]:
    """The states that ranks own, by the ranks among which they are."""
    found: dict[Ranks, list[_OwnedState]] = {}
    for p, slot in slots.items():
        if isinstance(slot, LocalSlot) and slot.owned and not slot.is_empty:
            kept = [each for each in slot.rule.states if each.name in slot.owned]
            found.setdefault(_ranks_of(slot), []).extend((p, slot, each) for each in kept)
    return found


def _bring_home(slots: Mapping[Any, Slot], state: _StatesOf, sent: Communication) -> None:
    """Moves each state that another rank than its owner has to the owner."""
    for ranks, owned in _list_owned(slots).items():
        places = zip(owned, _find_places(ranks, owned, state, sent), strict=True)
        away = [(each, place) for each, place in places if place is not None and place != each[1].owner]
        moved = _exchange(ranks, [_move(ranks, each, place, state) for each, place in away], sent)
        for ((p, _, kept), _), x in zip(away, moved, strict=True):
            state[p][kept.name] = x
        for p, slot, _ in owned:
            _leave_to_owner(slot, state[p])


def _find_places(ranks: Ranks, owned: Sequence[_OwnedState], state: _StatesOf, sent: Communication) -> list[int | None]:
    """The rank that has each state, which is its owner if that has one; None if nobody has."""
    here = [_is_whole(state, p, slot, kept) * (1 + ranks.rank + ranks.size * slot.is_owner) for p, slot, kept in owned]
    found = torch.tensor(here, device=owned[0][1].device)
    Reach((ranks,), found.device).reduce(found, dist.ReduceOp.MAX, sent)
    return [(place - 1) % ranks.size if place else None for place in found.tolist()]


def _is_whole(state: _StatesOf, p: Any, slot: LocalSlot, kept: State) -> bool:
    """Whether this rank has all of the state, and not only room for it."""
    x = state[p].get(kept.name) if p in state else None
    if not isinstance(x, Tensor) or _is_dtensor(x) or _is_blank(x):
        return False
    return tuple(x.shape) == slot.of.state_shape(kept)


def _move(ranks: Ranks, owned: _OwnedState, source: int, state: _StatesOf) -> Shuffle:
    p, slot, kept = owned
    shape = slot.of.state_shape(kept)
    nothing = torch.empty((0, *shape[1:]), dtype=_compute_dtype(slot.dtype), device=slot.device)
    outgoing, incoming = [nothing] * ranks.size, [tuple(nothing.shape)] * ranks.size
    if ranks.rank == source:
        outgoing[slot.owner or 0] = state[p][kept.name]
    if slot.is_owner:
        incoming[source] = shape
    return Shuffle(outgoing, incoming, 0)


@contextmanager
def _show_owned(optimizer: torch.optim.Optimizer, slots: Mapping[Any, Slot]) -> Iterator[None]:
    """Within this context states that ranks own are DTensors of their whole shapes, of which each rank has a part."""
    state = optimizer.state
    if found := _list_owned(slots):
        optimizer.state = _make_shown(found, state)
    try:
        yield
    finally:
        optimizer.state = state


def _make_shown(found: Mapping[Ranks, Sequence[_OwnedState]], state: Mapping[Any, Any]) -> defaultdict[Any, Any]:
    shown = defaultdict(dict, {p: {**entry} if isinstance(entry, Mapping) else entry for p, entry in state.items()})
    for ranks, owned in found.items():
        there = [each for each in owned if each[0] in state and each[2].name in state[each[0]]]
        parts = _exchange(ranks, [_spread_over_ranks(ranks, each, state) for each in there], Communication())
        for (p, slot, kept), x in zip(there, parts, strict=True):
            shown[p][kept.name] = slot.wrapped(kept, x)
    return shown


def _spread_over_ranks(ranks: Ranks, owned: _OwnedState, state: _StatesOf) -> Shuffle:
    p, slot, kept = owned
    shape, x = slot.of.state_shape(kept), state[p][kept.name]
    lengths = [length for _, length in slot.layout.parts(shape[0])]
    outgoing = torch.split(x, lengths) if slot.is_owner else [x] * ranks.size
    incoming = [(0, *shape[1:])] * ranks.size
    incoming[slot.owner or 0] = (lengths[ranks.rank], *shape[1:])
    return Shuffle(outgoing, incoming, 0)


def _send_home(slots: Mapping[Any, Slot], state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Loaded states in which those that ranks own are whole there, where they came as `state_dict` shows them."""
    taken = {p: {**entry} if isinstance(entry, Mapping) else entry for p, entry in state.items()}
    for ranks, owned in _list_owned(slots).items():
        there = [each for each in owned if _is_shown(taken.get(each[0]), each)]
        messages = [_gather_at_owner(ranks, slot, taken[p][kept.name]) for p, slot, kept in there]
        for (p, _, kept), x in zip(there, _exchange(ranks, messages, Communication()), strict=True):
            taken[p][kept.name] = x
    return taken


def _is_shown(entry: Any, owned: _OwnedState) -> bool:
    _, slot, kept = owned
    x = entry.get(kept.name) if isinstance(entry, Mapping) else None
    return _is_dtensor(x) and tuple(x.shape) == slot.of.state_shape(kept) and slot.holds(kept, x)


def _send_past_home(
    slots: Mapping[Any, Slot], state: Mapping[Any, Any], names: Mapping[Any, Collection[str]]
) -> dict[Any, dict[str, Tensor]]:
    """Loaded states of these names, of which are made what owners have, in the form of that: all here, or no rows.

    What is on another mesh is left out.
    """
    found: dict[Any, dict[str, Tensor]] = {}
    travelling: dict[Ranks, list[tuple[Any, str, Any]]] = {}
    for p, listed in names.items():
        slot, entry = slots[p], state[p] if isinstance(state[p], Mapping) else {}
        if not isinstance(slot, LocalSlot):
            continue
        for name, x in ((name, entry[name]) for name in listed if name in entry):
            if _is_dtensor(x) and x.device_mesh == slot.layout.mesh:
                travelling.setdefault(_ranks_of(slot), []).append((p, name, x.redistribute(placements=slot.shown)))
            elif isinstance(x, Tensor) and not _is_dtensor(x) and x.ndim:
                found.setdefault(p, {})[name] = x if slot.is_owner else x[:0]
    for ranks, each in travelling.items():
        messages = [_gather_at_owner(ranks, slots[p], x) for p, _, x in each]
        for (p, name, _), x in zip(each, _exchange(ranks, messages, Communication()), strict=True):
            found.setdefault(p, {})[name] = x
    return found


def _gather_at_owner(ranks: Ranks, slot: Any, x: Any) -> Shuffle:
    shape, part = tuple(x.shape), x.to_local()
    outgoing = [part[:0]] * ranks.size
    outgoing[slot.owner or 0] = part
    lengths = [length if slot.is_owner else 0 for _, length in slot.layout.parts(shape[0])]
    return Shuffle(outgoing, [(length, *shape[1:]) for length in lengths], 0)


def _exchange(ranks: Ranks, messages: Sequence[Message], sent: Communication) -> list[Tensor]:
    """What the messages have become, in one round."""
    found: list[Tensor] = []

    def delivered() -> Generator[None, None, None]:
        found.extend((yield from _deliver(messages, ranks, sent)))

    for _ in delivered() if messages else ():
        pass
    return found
