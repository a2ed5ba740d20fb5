"""Collectives: the messages of one round as one call of each kind, which is counted, and under way until it is needed.

Calls are made in the group of the messages alone, as other ranks may not take part. All ranks must make the same calls
in the same order: which messages there are follows from what all ranks know, never from a tensor's values or from how
much of it a rank has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from .communication import Communication
from .packing import (
    Message,
    Partial,
    Shuffle,
    _pack_partials,
    _pack_shuffles,
    _unpack_partials,
    _unpack_shuffles,
)
from .sharding import Ranks

_Finish = Callable[[], list[Tensor]]  # waits for a call, and gives what each message has become


def _deliver(messages: Sequence[Message], ranks: Ranks, record: Communication) -> Generator[None, None, list[Tensor]]:
    """One round: starts its calls, yields while they are under way, and returns what each message has become.

    What the messages hold is copied at once and may be overwritten.
    """
    record.rounds += 1
    together: dict[tuple[Any, ...], list[int]] = {}
    for index, message in enumerate(messages):
        kind = (message.kind,) if isinstance(message, Partial) else ("shuffle", message.outgoing[0].dtype)
        together.setdefault(kind, []).append(index)
    started = [(indices, _start([messages[i] for i in indices], ranks, record)) for indices in together.values()]
    yield
    results: dict[int, Tensor] = {}
    for indices, finish in started:
        results.update(zip(indices, finish(), strict=True))
    return [results[index] for index in range(len(messages))]


def _start(messages: Sequence[Message], ranks: Ranks, record: Communication) -> _Finish:
    if isinstance(messages[0], Partial):
        return _start_reduction(cast(Sequence[Partial], messages), ranks, record)
    return _start_shuffle(cast(Sequence[Shuffle], messages), ranks, record)


def _start_reduction(partials: Sequence[Partial], ranks: Ranks, record: Communication) -> _Finish:
    flat = _pack_partials(partials)
    record.count_reduction(flat.numel() * flat.element_size(), ranks.size)
    operation = dist.ReduceOp.SUM if partials[0].kind == "sum" else dist.ReduceOp.MAX
    work = dist.all_reduce(flat, operation, group=ranks.group, async_op=True)

    def finish() -> list[Tensor]:
        work.wait()
        return _unpack_partials(partials, flat)

    return finish


def _start_shuffle(shuffles: Sequence[Shuffle], ranks: Ranks, record: Communication) -> _Finish:
    flat, sent, received = _pack_shuffles(shuffles)
    record.count("all_to_all", (sum(sent) - sent[ranks.rank]) * flat.element_size())
    arrived = torch.empty(sum(received), dtype=flat.dtype, device=flat.device)
    work = dist.all_to_all_single(arrived, flat, received, sent, group=ranks.group, async_op=True)

    def finish() -> list[Tensor]:
        work.wait()
        return _unpack_shuffles(shuffles, arrived)

    return finish
