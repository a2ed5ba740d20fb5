"""One call of a kernel on one bucket."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..batching.buckets import Bucket, _ParameterStates
from ..batching.parameter_batch import ParameterBatch, Scalars
from ..contract.interface import NOISE, PARAMETER, Kernel, State
from .computations import Computation
from .graphs import _graph_for


@dataclass
class Source:
    """A batch that a call reads or writes, and where it comes from.

    `live` batches share memory with `tensors`; others are copies that must be scattered back if they are written.
    """

    batch: Tensor
    live: bool
    tensors: list[Tensor]
    state: State | None


class Call:
    """One kernel on one bucket: gathers what is read, runs the kernel piece by piece, writes back what it returns."""

    def __init__(self, kernel: Kernel, bucket: Bucket, batch: ParameterBatch, state: _ParameterStates) -> None:
        self.bucket, self.batch, self.state = bucket, batch, state
        self.computation = Computation(kernel, batch.precision, batch.dtype)
        states = {kept.name: kept for kept, _ in batch.states}
        others = (*PARAMETER, NOISE, *batch.forms)
        stored = [name for name in self.computation.names if name in states or name in others]
        self.sources = {name: self._source(name, states) for name in stored}

    def _source(self, name: str, states: Mapping[str, State]) -> Source:
        bucket = self.bucket
        if name in bucket.buffers:
            return Source(bucket.buffers[name].batch, True, [], states[name])
        if name == NOISE:
            assert self.batch.noise is not None
            return Source(self.batch.noise.numbers(bucket), True, [], None)
        if name == "grad":
            return Source(bucket.gather(self.batch.gradients(bucket.params)), False, [], None)
        if name in self.batch.forms:
            given = [self.batch.given[p][name] for p in bucket.params]
            return Source(bucket.gather(given, self.batch.forms[name]), False, [], None)
        kept = states.get(name)
        tensors = [self.state[p][name] for p in bucket.params] if kept else self.batch.weights(bucket.params)
        batch = bucket.gather(tensors, kept)
        return Source(batch, bucket.is_shared(batch, tensors, kept), tensors, kept)

    def evaluate(self, scalars: Scalars) -> tuple[Any, ...]:
        """The kernel's outputs for the whole bucket; nothing is written."""
        values: tuple[Any, ...] = self.computation.values(
            self.begin(), self.computation.kernel.function, self.known(scalars)
        )
        return values

    def execute(self, scalars: Scalars) -> None:
        """Runs the kernel and writes its outputs to the weights and states."""
        function, known = self.computation.kernel.function, self.sized(scalars).all
        for cut in self.bucket.cuts:
            stored = {n: s.batch if cut is None else s.batch[cut] for n, s in self.sources.items()}
            self._keep(self.computation.results(stored, function, known), stored, replace=cut is None)
        self.write_back()

    def begin(self) -> dict[str, Tensor]:
        """What the kernel sees of the whole bucket, for who runs it elsewhere and then calls `complete`."""
        return self.computation.given({name: source.batch for name, source in self.sources.items()})

    def complete(self, given: Mapping[str, Tensor], values: Any) -> None:
        """Writes what the kernel has returned for what it was given."""
        stored = {name: source.batch for name, source in self.sources.items()}
        self._keep(self.computation.kept(stored, given, values), stored, replace=True)
        self.write_back()

    def execute_graph(self, scalars: Scalars, compiled: bool = False, options: Mapping[str, Any] | None = None) -> None:
        """As `execute`, by the kernel's graph, compiled or as it was recorded."""
        stored = {name: source.batch for name, source in self.sources.items()}
        if not stored:
            return
        graph = _graph_for(self.computation, stored, self.sized(scalars), compiled, options)
        graph(stored, scalars)
        self.write_back()

    def known(self, scalars: Scalars) -> dict[str, Any]:
        """The keyword arguments of the kernel."""
        return self.sized(scalars).all

    def sized(self, scalars: Scalars) -> Scalars:
        rank = self.batch.rule.rank
        own = {rank.name: self.bucket.rank} if rank else {}
        return scalars.sized(self.computation.kernel, {**self.bucket.sizes, **own})

    def _keep(self, results: Mapping[str, Any], stored: Mapping[str, Tensor], replace: bool) -> None:
        for name, value in results.items():
            self._store(name, value, stored[name], replace)

    def _store(self, name: str, value: Any, target: Tensor, replace: bool) -> None:
        if value is target:
            return
        source = self.sources[name]
        if replace and name == "weight" and not source.live:
            source.batch = value
        elif isinstance(value, Tensor):
            target.copy_(value)
        else:
            target.fill_(value)

    def write_back(self) -> None:
        """Copies what was written to a copy to where it belongs."""
        written = self.computation.written
        for name, source in self.sources.items():
            if name in written and not source.live:
                self.bucket.scatter(source.batch, source.tensors, source.state)


def _sum_in_order(values: list[Tensor]) -> Tensor:
    """The 0-d sum, the same bits in whatever order the values come."""
    device = values[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    return torch.cat([value.detach().to(device, wide).flatten() for value in values]).sort().values.sum()


def _all_finite(batches: Iterable[ParameterBatch], given: Iterable[ParameterBatch] = ()) -> bool:
    """Whether no gradient, and nothing that others are `given`, has a NaN or infinity; waits for the device once."""
    grads = [grad for batch in batches for grad in batch.gradients(batch.params) if grad is not None]
    found = [*grads, *(x for batch in given for own in batch.given.values() for x in own.values())]
    found = [x for x in found if x.numel()]
    return not found or bool(get_total_norm(found, math.inf).isfinite())
