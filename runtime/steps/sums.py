"""Sums over all parameters, such as a global norm: the stages of a rule before its last.

Of a parameter that lies on several ranks each adds what it has; what all of them have counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batching.buckets import Bucket, _ParameterStates
from ..batching.crossing import _ranks_of
from ..batching.parameter_batch import ParameterBatch
from ..contract.interface import Kernel
from ..exchange.agreement import _sum_over_ranks
from ..exchange.communication import Communication
from ..exchange.drive import _drive
from ..exchange.sharding import Ranks
from ..execution.arrangement import Arrangement, _Slots
from ..execution.calls import Call, _sum_in_order
from ..execution.crossing import _begin_sums
from ..routing.places import _wider

_Parts = dict[Ranks, list[Sequence[Tensor]]]  # the outputs of a kernel that are to be added up, by who has them


def _sums(
    kernels: Mapping[str, Kernel],
    batches: Sequence[ParameterBatch],
    arguments: Mapping[str, Mapping[str, Any]],
    arrangement: Arrangement,
    slots: _Slots,
    state: _ParameterStates,
    sent: Communication,
) -> dict[str, dict[str, Tensor]]:
    """By rule, what the kernels before its last one sum up over all units; `arguments` are by rule too."""
    return {
        name: _sums_before(name, last, batches, arguments.get(name, {}), arrangement, slots, state, sent)
        for name, last in kernels.items()
    }


def _sums_before(
    rule: str,
    last: Kernel,
    batches: Sequence[ParameterBatch],
    arguments: Mapping[str, Any],
    arrangement: Arrangement,
    slots: _Slots,
    state: _ParameterStates,
    sent: Communication,
) -> dict[str, Tensor]:
    """What the kernels before `last` sum up over the units of all batches; later ones may use earlier sums."""
    sums: dict[str, Tensor] = {}
    for kernel in last.sums:
        parts: _Parts = {Ranks(): []}
        summed = [batch for batch in batches if kernel.over == "all" or batch.rule.name == rule]
        for p in (p for batch in summed for p in batch.params):  # others need not be the same on all ranks
            parts.setdefault(_ranks_of(slots[p]), [])
        for batch in summed:
            scalars = batch.scalars(kernel, sums, arguments)
            layout = _wider("tensor", batch.rule.step.layout, kernel.layout)
            buckets = arrangement.buckets(batch, kernel, layout, slots)
            calls = [Call(kernel, bucket, batch, state) for bucket in buckets]
            for call in calls:
                if call.bucket.sharding is None:
                    _add_apart(parts, call.bucket, call.evaluate(scalars), slots)
            crossing = [(call, call.bucket.sharding) for call in calls if call.bucket.sharding is not None]
            _drive((_begin_sums(call, scalars, parts[sharding.ranks].append) for call, sharding in crossing), sent)
        device = batches[0].device if batches else torch.device("cpu")
        totals = _sum_over_ranks({ranks: _add_up(found, kernel, device) for ranks, found in parts.items()}, sent)
        sums.update(zip(kernel.outputs, totals, strict=True))
    return sums


def _add_up(found: Sequence[Sequence[Tensor]], kernel: Kernel, device: torch.device) -> Tensor:
    """One sum for each output of the kernel."""
    listed = [each for each in found if each] or [[torch.zeros(1, device=device)] * len(kernel.outputs)]
    return torch.stack([_sum_in_order(list(values)) for values in zip(*listed, strict=True)])


def _add_apart(parts: _Parts, bucket: Bucket, values: Sequence[Tensor], slots: _Slots) -> None:
    """Adds the outputs for a bucket to those of the ranks that have its parameters, which need not be the same."""
    ranks = [_ranks_of(slots[p]) for p in bucket.params]
    if len(set(ranks)) == 1:
        parts[ranks[0]].append(values)
        return
    pieces = [torch.split(value.expand(sum(bucket.counts), -1, -1), bucket.counts) for value in values]
    for own, each in zip(ranks, zip(*pieces, strict=True), strict=True):
        parts[own].append(each)
