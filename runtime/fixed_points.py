"""Weights that no step will ever move: a word about each before its first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from .batching.counters import _is_capturing
from .batching.parameter_batch import ParameterBatch
from .batching.roster import Roster
from .routing.places import Slot


def _warn_of_fixed_points(batches: Iterable[ParameterBatch], roster: Roster, optimizer: str) -> None:
    """Warns of parameters at their first step that are all zeros, or one of whose matrices is, where they stay so.

    Waits for the device once for the new parameters of such a rule, and never otherwise.
    """
    for batch in batches:
        if batch.count > 1 or not batch.rule.keeps_zero or batch.device.type == "meta" or _is_capturing():
            continue
        params = [p for p in batch.params if p not in batch.parts]  # zeros of a part say nothing of the whole
        moving = [_find_moving(p, roster.slots[p]) for p in params]
        for p, (some, every) in zip(params, torch.stack(moving).tolist() if moving else (), strict=True):
            if every:
                continue
            what = roster.name(p) if not some else f"one of the matrices in {roster.name(p)}"
            warnings.warn(
                f"{optimizer}: {what} is all zeros, and under the rule {batch.rule.name!r} it stays so "
                "whatever its gradients are; begin with other weights, or put it into a group of another rule",
                stacklevel=3,
            )


def _find_moving(p: Tensor, slot: Slot) -> Tensor:
    """Whether some of the units of the parameter is more than zeros, and whether every one is."""
    places = slot.places(slot.rule.step.layout)
    units = torch.cat([place.window(p.detach()).reshape(place.count, -1).any(1) for place in places])
    return torch.stack([units.any(), units.all()])
