"""Agreement: that all ranks are about to do the same, and what they decide or add up together.

In: what this rank knows of each parameter, and the groups that together reach all ranks which step together, in an
order that all of them have. Out: an error on every rank unless they know the same. Each function is a call or two for
each group, and waits for the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .sharding import Ranks


@dataclass(frozen=True)
class Known:
    """What must be the same of a parameter on all ranks."""

    name: str
    has_gradient: bool
    count: int
    hypers: tuple[Any, ...]


def _require_same(known: Sequence[Known], spec: str, groups: Sequence[Ranks], device: torch.device) -> None:
    """RuntimeError on every rank, which says what differs, unless all know the same; nothing has changed.

    Whether anything differs is one reduction of a few words; only then ranks exchange what they know.
    """
    words = [_word((spec, *known)), _word(spec), len(known)]
    differ = _find_differences([words], groups, device)[0]
    if not any(differ):
        return
    if differ[1]:
        raise RuntimeError(f"ranks step optimizers of different specs; this one's is {spec or 'unknown'}")
    if differ[2]:
        raise RuntimeError(f"ranks step different numbers of parameters; this one steps {len(known)}")
    rows = [[_word(each.name), int(each.has_gradient), each.count, _word(each.hypers)] for each in known]
    found = _find_differences(rows, groups, device)
    problems = (
        "they are called otherwise on some ranks",
        "some ranks have a gradient and others have none",
        "ranks have counted different numbers of steps",
        "ranks have different hypers",
    )
    lines = [
        f"{problem}: {', '.join(named)}"
        for column, problem in enumerate(problems)
        if (named := [each.name for each, row in zip(known, found, strict=True) if row[column]])
    ]
    raise RuntimeError("\n".join(["ranks do not agree, and nothing has been stepped", *lines]))


def _word(facts: object) -> int:
    """62 bits that are the same in all processes for what is written in the same way."""
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "little") >> 2


def _find_differences(rows: Sequence[Sequence[int]], groups: Sequence[Ranks], device: torch.device) -> list[list[bool]]:
    """Which of the numbers are not the same on all ranks: the largest of each, and the largest of its opposite."""
    mine = torch.tensor(rows, dtype=torch.int64, device=device)
    extremes = torch.stack([mine, -mine])
    for ranks in groups:
        dist.all_reduce(extremes, dist.ReduceOp.MAX, group=ranks.group)
    differs: list[list[bool]] = (extremes[0] != -extremes[1]).tolist()
    return differs


def _is_so_everywhere(is_so: bool, groups: Sequence[Ranks], device: torch.device) -> bool:
    """Whether it is so on all ranks; a flag, as a reduction of the values themselves might drop a NaN."""
    flag = torch.tensor(int(is_so), device=device)
    for ranks in groups:
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=ranks.group)
    return bool(flag)


def _sum_over_ranks(sums: Mapping[Ranks, Tensor]) -> Tensor:
    """What all ranks have of sums: for each group what this rank has added up of its own shards.

    Under `Ranks()` is what every rank has, as of parameters that are not sharded: it counts once.
    """
    totals = []
    for ranks, value in sums.items():
        total = value.clone()
        if ranks.size > 1:
            dist.all_reduce(total, group=ranks.group)
        totals.append(total)
    return torch.stack(totals).sum(0)
