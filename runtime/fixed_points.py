"""Weights that no step will ever move: a word about each before its first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from .batching.counters import _is_capturing
from .batching.roster import Roster
from .batching.work import Work


def _warn_of_fixed_points(works: Iterable[Work], roster: Roster, optimizer: str) -> None:
    """Warns of parameters at their first step that are all zeros, and of a rule under which they stay so.

    Waits for the device once for the new parameters of such a rule, and never otherwise.
    """
    for work in works:
        if work.count > 1 or not work.rule.keeps_zero or work.device.type == "meta" or _is_capturing():
            continue
        moves = torch.stack([p.any() for p in work.params]).tolist()
        for p in [p for p, does_move in zip(work.params, moves, strict=True) if not does_move]:
            warnings.warn(
                f"{optimizer}: {roster.name(p)} is all zeros, and under the rule {work.rule.name!r} it stays so "
                "whatever its gradients are; begin with other weights, or put it into a group of another rule",
                stacklevel=3,
            )
