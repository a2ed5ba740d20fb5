"""Weights that no step will ever move: a word about each before its first step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from .batching.counters import _is_capturing
from .batching.crossing import _ranks_of
from .batching.parameter_batch import ParameterBatch
from .batching.roster import Roster
from .exchange.communication import Communication
from .exchange.sharding import Ranks
from .placement.slots import LocalSlot, _parts_of, _side
from .routing.places import Slot
from .steps.together import Together


def _warn_of_fixed_points(
    batches: Iterable[ParameterBatch], roster: Roster, optimizer: str, together: Together, sent: Communication
) -> None:
    """Warns of parameters at their first step that are all zeros, or one of whose matrices is, where they stay so.

    Waits for the device once for the new parameters of such a rule, and never otherwise; where their matrices lie on
    several ranks, which exchange values in each step anyway, these ask each other as well.
    """
    found: dict[Ranks, list[tuple[ParameterBatch, Tensor, Tensor]]] = {}
    for batch in batches:
        if batch.count > 1 or not batch.rule.keeps_zero or batch.device.type == "meta" or _is_capturing():
            continue
        for p, weight in zip(batch.params, batch.weights(batch.params), strict=True):
            slot, ranks = roster.slots[p], Ranks()
            if isinstance(slot, LocalSlot) and slot.layout.is_cut and not _has_whole_units(slot):
                if p not in together.shared:
                    continue  # zeros of a part say nothing of the whole, and nobody is to be asked
                ranks = _ranks_of(slot)
            found.setdefault(ranks, []).append((batch, p, _find_moving(weight.detach(), slot)))
    for ranks, listed in found.items():
        units = together.anywhere([moving for _, _, moving in listed], ranks, sent)
        for (batch, p, _), moving in zip(listed, units, strict=True):
            if not all(moving):
                is_one = any(moving) or (isinstance(roster.slots[p], LocalSlot) and _has_whole_units(roster.slots[p]))
                what = f"one of the matrices in {roster.name(p)}" if is_one else roster.name(p)
                warnings.warn(
                    f"{optimizer}: {what} is all zeros, and under the rule {batch.rule.name!r} it stays so "
                    "whatever its gradients are; begin with other weights, or put it into a group of another rule",
                    stacklevel=3,
                )


def _has_whole_units(slot: Slot) -> bool:
    """Whether the part that is here is some of a parameter's matrices, each of them whole."""
    if not isinstance(slot, LocalSlot) or not slot.layout.is_cut:
        return False
    return all(_side(slot.of, dim, slot.rule.step.layout) == "batch" for _, dim in slot.layout.cuts)


def _find_moving(weight: Tensor, slot: Slot) -> Tensor:
    """For each unit of a parameter whether it is more than zeros, as far as it is here."""
    layout = slot.rule.step.layout
    parts = _parts_of(slot.whole, layout)
    places = slot.places(layout)
    if isinstance(slot, LocalSlot) and parts > 1 and places[0].parts == 1:  # of which rows are here
        rows = places[0].window(weight).reshape(places[0].count, *places[0].unit).any(2)
        part = (slot.layout.offset + torch.arange(rows.shape[1], device=rows.device)) // slot.of.places(layout)[0].unit[
            0
        ]
        counts = torch.zeros(len(rows), parts, dtype=torch.int32, device=rows.device)
        return counts.index_add_(1, part, rows.int()).flatten() > 0
    return torch.cat([place.window(weight).reshape(place.count, math.prod(place.unit)).any(1) for place in places])
