"""Agreement: that all ranks are about to do the same, and what they decide or add up together.

In: what this rank knows of each parameter, or why it cannot step, and the groups that together reach all ranks which
step together. Out: an error on every rank unless they know the same. Each function is a call or two for each group, and
waits for the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from ..contract.arguments import _number_in
from .communication import Communication
from .sharding import Ranks

TEXT_BYTES = 1000  # of what other ranks hear of an error


@dataclass(frozen=True)
class Known:
    """What must be the same of a parameter on all ranks."""

    name: str
    has_gradient: bool
    count: int
    hypers: tuple[Any, ...]


@dataclass(frozen=True)
class Asked:
    """The method that a rank has been asked to run, and what it was given: numbers, or tensors of one."""

    method: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def numbers(self) -> tuple[tuple[str, float | None], ...]:
        """Waits for devices that have any."""
        return tuple((name, _number_in(value)) for name, value in self.arguments.items())


@dataclass(frozen=True)
class Reach:
    """All ranks that step together: groups that reach them one after another, in an order that all of them have."""

    groups: tuple[Ranks, ...]
    device: torch.device

    def reduce(self, x: Tensor, operation: Any, sent: Communication) -> None:
        """Makes of x what it is over all ranks."""
        sent.rounds += bool(self.groups)
        for ranks in self.groups:
            sent.count_reduction(x.numel() * x.element_size(), ranks.size)
            dist.all_reduce(x, operation, group=ranks.group)


def _require_same(
    known: Sequence[Known],
    spec: str,
    asked: Asked,
    reach: Reach,
    sent: Communication,
    problem: BaseException | None = None,
) -> None:
    """RuntimeError on every rank, which says what differs, unless all know the same; nothing has changed.

    Whether anything differs is one reduction of a few words; only then ranks exchange what they know. A rank with a
    `problem`, for which it cannot step, raises that, and others what it is.
    """
    largest, differ = _compare(
        [_number_of(problem), _word((spec, asked.method, asked.numbers, *known)), _word(spec), len(known)], reach, sent
    )
    if largest[0]:
        _raise_everywhere(problem, largest[0], reach, sent)
    if not any(differ):
        return
    if differ[2]:
        raise RuntimeError(f"ranks step optimizers of different specs; this one's is {spec or 'unknown'}")
    if differ[3]:
        raise RuntimeError(f"ranks step different numbers of parameters; this one steps {len(known)}")
    rows = [[_word(each.name), int(each.has_gradient), each.count, _word(each.hypers)] for each in known]
    words = [_word(asked.method), _word(asked.numbers), *(word for row in rows for word in row)]
    other_method, other_numbers, *found = _compare(words, reach, sent)[1]
    if other_method:
        raise RuntimeError(f"ranks call different methods, and nothing has changed; this one calls {asked.method}()")
    if other_numbers:
        _raise_for_numbers(asked, reach, sent)
    problems = (
        "they are called otherwise on some ranks",
        "some ranks have a gradient and others have none",
        "ranks have counted different numbers of steps",
        "ranks have different hypers",
    )
    lines = ["ranks do not agree, and nothing has been stepped"]
    for column, what in enumerate(problems):
        named = [each.name for each, differs in zip(known, found[column::4], strict=True) if differs]
        lines.extend([f"{what}: {', '.join(named)}"] if named else [])
    raise RuntimeError("\n".join(lines))


def _raise_for_numbers(asked: Asked, reach: Reach, sent: Communication) -> NoReturn:
    """RuntimeError that names the numbers that ranks have given otherwise; all of them must call the same method."""
    differ = _compare([_word(value) for _, value in asked.numbers], reach, sent)[1]
    here = [f"{name}={value}" for (name, value), is_other in zip(asked.numbers, differ, strict=True) if is_other]
    raise RuntimeError(
        f"ranks give {asked.method}() different numbers, and nothing has changed; this one {', '.join(here)}. A value "
        "that each rank has of its own part of a batch is averaged over all of them before"
    )


def _word(facts: object) -> int:
    """62 bits that are the same in all processes for what is written in the same way."""
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "little") >> 2


def _compare(words: Sequence[int], reach: Reach, sent: Communication) -> tuple[list[int], list[bool]]:
    """The largest of each number on all ranks, and whether others are smaller: minus the largest of its opposite."""
    mine = torch.tensor(words, dtype=torch.int64, device=reach.device)
    extremes = torch.stack([mine, -mine])
    reach.reduce(extremes, dist.ReduceOp.MAX, sent)
    largest, opposite = extremes.tolist()
    return largest, [x != -y for x, y in zip(largest, opposite, strict=True)]


def _is_so_everywhere(is_so: bool, reach: Reach, sent: Communication, problem: BaseException | None = None) -> bool:
    """Whether it is so on all ranks; a flag, as a reduction of the values themselves might drop a NaN.

    A `problem` is raised as by `_require_same`.
    """
    flag = torch.tensor(-_number_of(problem) if problem else int(is_so), device=reach.device)
    reach.reduce(flag, dist.ReduceOp.MIN, sent)
    if flag < 0:
        _raise_everywhere(problem, -int(flag), reach, sent)
    return bool(flag)


def _number_of(problem: BaseException | None) -> int:
    """A number that says of a rank with a problem which one it is; 0 of any other."""
    return 0 if problem is None else 1 + dist.get_rank()


def _raise_everywhere(problem: BaseException | None, failing: int, reach: Reach, sent: Communication) -> NoReturn:
    """Raises the problem of this rank; on a rank without any the one of the rank whose number was found to be largest.

    RuntimeError for that; all ranks must be there.
    """
    letters = torch.zeros(TEXT_BYTES, dtype=torch.uint8, device=reach.device)
    if failing == _number_of(problem):
        text = f"{type(problem).__name__}: {problem}".encode()[:TEXT_BYTES]
        letters[: len(text)] = torch.tensor([*text], dtype=torch.uint8)
    reach.reduce(letters, dist.ReduceOp.MAX, sent)
    if problem is not None:
        raise problem
    text = bytes(letters.tolist()).rstrip(b"\0")
    reason = text.decode(errors="replace")
    raise RuntimeError(f"rank {failing - 1} cannot take part, and nothing has been stepped on any: {reason}")


def _sum_over_ranks(sums: Mapping[Ranks, Tensor], sent: Communication) -> Tensor:
    """What all ranks have of sums: for each group what this rank has added up of its own shards.

    Under `Ranks()` is what every rank has, as of parameters that are not sharded: it counts once.
    """
    totals = []
    for ranks, value in sums.items():
        total = value.clone()
        if ranks.size > 1:
            Reach((ranks,), total.device).reduce(total, dist.ReduceOp.SUM, sent)
        totals.append(total)
    return torch.stack(totals).sum(0)
