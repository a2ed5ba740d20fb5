"""One call of a kernel on one bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from .buckets import Bucket
from .interface import PARAMETER, Kernel, Memory, Rule
from .numbers import round_stochastically


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Parameters below 32 bits compute, and keep their memories, in float32."""
    return torch.float32 if dtype.itemsize < 4 else dtype


@dataclass(frozen=True)
class Work:
    """Parameters of one rule, dtype, device, precision, step count and values of all hypers."""

    rule: Rule
    precision: str  # "plain" for parameters that compute in their own dtype
    dtype: torch.dtype
    device: torch.device
    t: int
    hypers: dict[str, Any]
    params: list[Tensor] = field(default_factory=list)

    @property
    def compute_dtype(self) -> torch.dtype:
        return _compute_dtype(self.dtype)

    @property
    def memories(self) -> list[tuple[Memory, torch.dtype]]:
        """The rule's memories and the one of the precision, with their dtypes."""
        memories = [(memory, self.compute_dtype) for memory in self.rule.memories]
        extra = _precision_memory(self.precision)
        return [*memories, (extra, self.dtype if extra.name == "kahan" else self.compute_dtype)] if extra else memories

    def scalars(self, kernel: Kernel, totals: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of the kernel; totals get its dimensions, and the device and dtype of this work."""
        known = {"t": self.t, **self.hypers, **arguments}
        shape = () if kernel.layout == "elementwise" else (1, 1)
        known |= {n: total.to(self.device, self.compute_dtype).view(shape) for n, total in totals.items()}
        return {name: known[name] for name in kernel.scalars}


def _precision_memory(precision: str) -> Memory | None:
    return Memory(precision, ("rows", "cols")) if precision in ("kahan", "master") else None


@dataclass
class Source:
    """A batch that a call reads or writes, and where it comes from.

    `live` batches share memory with `tensors`; others are copies that must be scattered back if they are written.
    """

    batch: Tensor
    live: bool
    tensors: list[Tensor]
    memory: Memory | None


class Call:
    """One kernel on one bucket: gathers what is read, runs the kernel piece by piece, writes back what it returns."""

    def __init__(self, kernel: Kernel, bucket: Bucket, work: Work, state: Mapping[Tensor, dict[str, Any]]) -> None:
        self.kernel, self.bucket, self.work, self.state = kernel, bucket, work, state
        names = list(dict.fromkeys((*kernel.inputs, *kernel.outputs)))
        self.weight = "master" if work.precision == "master" else "weight"  # what stands for the weight
        if "weight" in names:
            names[names.index("weight")] = self.weight
            if work.precision == "kahan":
                names.append("kahan")
        memories = {memory.name: memory for memory, _ in work.memories}
        self.sources = {name: self._source(name, memories) for name in names if name in memories or name in PARAMETER}

    def _source(self, name: str, memories: Mapping[str, Memory]) -> Source:
        bucket = self.bucket
        if name in bucket.buffers:
            return Source(bucket.buffers[name], True, [], memories[name])
        if name == "grad":
            return Source(bucket.gather([cast(Tensor, p.grad) for p in bucket.params]), False, [], None)
        memory = memories.get(name)
        tensors = [self.state[p][name] for p in bucket.params] if memory else bucket.params
        batch = bucket.gather(tensors, memory)
        live = batch.data_ptr() == bucket.entries[0][1].window(tensors[0], memory).data_ptr()
        return Source(batch, live, tensors, memory)

    def evaluate(self, scalars: Mapping[str, Any]) -> tuple[Any, ...]:
        """The kernel's outputs for the whole bucket; nothing is written."""
        given = self._given({name: source.batch for name, source in self.sources.items()})
        return self.kernel.function(*(given[name] for name in self.kernel.inputs), **scalars)

    def execute(self, scalars: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
        """Runs the kernel and writes its outputs to the weights and memories."""
        for cut in self.bucket.cuts:
            stored = {n: s.batch if cut is None else s.batch[cut] for n, s in self.sources.items()}
            given = self._given(stored)
            values = self.kernel.function(*(given[name] for name in self.kernel.inputs), **scalars)
            results = dict(zip(self.kernel.outputs, _unaliased(self.kernel.outputs, values, given), strict=True))
            if "weight" in results:
                results[self.weight] = self._rounded(results.pop("weight"), stored, generator)
            for name, value in results.items():
                self._store(name, value, stored[name], replace=cut is None)
        self._write_back()

    def _given(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the kernel sees of the stored batches: everything in the dtype of computation."""
        given = {name: batch.to(self.work.compute_dtype) for name, batch in stored.items() if name != "kahan"}
        if "kahan" in stored:
            given["weight"] = given["weight"] + stored["kahan"]
        if self.weight in given:
            given["weight"] = given[self.weight]
        return given

    def _rounded(self, weight: Tensor, stored: Mapping[str, Tensor], generator: torch.Generator | None) -> Tensor:
        """The new weight as it is to be stored; keeps what Kahan's compensation needs."""
        if self.work.precision == "stochastic":
            return round_stochastically(weight, self.work.dtype, generator)
        if self.work.precision == "kahan":
            low = weight.to(self.work.dtype)
            stored["kahan"].copy_(weight - low)
            return low
        return weight

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

    def _write_back(self) -> None:
        """Copies what was written to a copy to where it belongs."""
        written = set(self.kernel.outputs)
        if "weight" in written:
            written |= {self.weight, "kahan"}
        for name, source in self.sources.items():
            if name in written and not source.live:
                self.bucket.scatter(source.batch, source.tensors, source.memory)
        if "weight" in written and self.weight == "master":
            self.bucket.scatter(self.sources["master"].batch, self.bucket.params)


def _unaliased(names: Sequence[str], values: Sequence[Any], given: Mapping[str, Tensor]) -> list[Any]:
    """The values, with copies of those that share memory with an input that another value will overwrite."""
    results = list(values)
    overwritten = {
        given[name].untyped_storage().data_ptr(): name
        for name, value in zip(names, values, strict=True)
        if name in given and value is not given[name]
    }
    if overwritten:
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            shares = isinstance(value, Tensor) and overwritten.get(value.untyped_storage().data_ptr(), name) != name
            results[i] = value.clone() if shares else value
    return results


def _ordered_sum(values: list[Tensor]) -> Tensor:
    """The 0-d sum, the same bits in whatever order the values come."""
    device = values[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    return torch.cat([value.detach().to(device, wide).flatten() for value in values]).sort().values.sum()
