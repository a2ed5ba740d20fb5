"""How a call is run: as it is written, by torch's fused kernel, as a recorded graph, or as a compiled one.

The choice follows from the backend, the rule and the size of the batch, never from measured time, so that the same
program takes the same steps everywhere. `_explain_strategy` says what was chosen and why.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..batching.buckets import Bucket, Stored, _ParameterStates
from ..batching.parameter_batch import ParameterBatch, Scalars
from ..contract.arguments import _require_kind
from ..contract.hypers import _suggest
from ..contract.interface import Kernel
from ..exchange.communication import Communication
from ..exchange.drive import Run
from ..exchange.sharding import Sharding
from ..routing.routes import _columns
from .calls import Call
from .computations import Computation
from .crossing import _begin_call, _shards_for
from .fused import _are_like, _are_tame, _forms, _fused_fits
from .graphs import CompileError, WrongGraph
from .pieces import _begin_pieces

BACKENDS = ("auto", "compile", "eager")

# From so many elements of one rule on, "auto" compiles: a step then saves tens of milliseconds, and the seconds of the
# compilation come back within some hundred steps.
AUTO_ELEMENTS = 1 << 24

FORCED = 'backend="compile"'


def _require_backend(backend: object) -> None:
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"invalid backend={backend!r}{_suggest(backend, BACKENDS)}")


def _require_ways(backend: object, skip_nonfinite: object, capturable: object) -> None:
    """ValueError unless steps can be taken in these ways."""
    _require_backend(backend)
    for name, value in (("skip_nonfinite", skip_nonfinite), ("capturable", capturable)):
        if not isinstance(value, bool):
            raise ValueError(f"invalid {name}={value!r}: a bool is expected")
    if capturable and skip_nonfinite:
        raise ValueError("skip_nonfinite waits for the device in each step, which a capturable step must not")


@dataclass(frozen=True)
class Strategy:
    """One of "eager", "fused", "graph" and "compile", and the reason."""

    name: str
    reason: str


Refused = dict[tuple[str, Computation], str]  # why a strategy is not used again for a computation


def _strategy(
    kernel: Kernel,
    batch: ParameterBatch,
    backend: str,
    capturable: bool,
    refused: Mapping[tuple[str, Computation], str] | None = None,
) -> Strategy:
    """How the kernel is run on the parameters of the batch."""
    wanted = _choose_strategy(kernel, batch, backend, capturable)
    computation = Computation(kernel, batch.precision, batch.dtype)
    while reason := (refused or {}).get((wanted.name, computation)):
        recorded = capturable and wanted.name == "compile"
        wanted = Strategy("graph", f"capturable; {reason}") if recorded else Strategy("eager", reason)
    return wanted


def _choose_strategy(kernel: Kernel, batch: ParameterBatch, backend: str, capturable: bool) -> Strategy:
    """How the kernel would be run if that works; ValueError for a backend that there is not."""
    _require_backend(backend)
    if backend == "eager":
        return Strategy("graph", "capturable") if capturable else Strategy("eager", 'backend="eager"')
    if backend == "compile":
        return Strategy("compile", FORCED)
    if kernel.fused is not None and batch.dtype is batch.compute_dtype and not capturable:
        return Strategy("fused", "torch has a fused kernel for the rule")
    if sum(p.numel() for p in batch.weights(batch.params)) < AUTO_ELEMENTS:
        reason = f"fewer than {AUTO_ELEMENTS:,} elements"
    elif not _can_compile(batch.device):
        reason = f"no compiler for {batch.device.type}"
    else:
        return Strategy("compile", f"at least {AUTO_ELEMENTS:,} elements")
    return Strategy("graph", f"capturable; {reason}") if capturable else Strategy("eager", reason)


@dataclass(frozen=True)
class Runner:
    """Runs a kernel on buckets of a batch by a strategy; strategies that have failed are `refused` from then on."""

    kernel: Kernel
    batch: ParameterBatch
    state: _ParameterStates
    strategy: Strategy
    options: Mapping[str, Any]
    refused: Refused

    def __post_init__(self) -> None:
        _require_kind("optimizer.compile_options", self.options, Mapping, "a dictionary of options")

    def __call__(self, bucket: Bucket, scalars: Scalars, stored: Stored | None = None) -> None:
        """Runs the kernel on the bucket, whose states are in `stored` if it is settled."""
        name = self.strategy.name
        if bucket.is_empty:
            name = "eager"
        if name == "fused" and self._run_fused(bucket, scalars, stored or {}):
            return
        call = Call(self.kernel, bucket, self.batch, self.state)
        if name not in ("graph", "compile") or not self._run_graph(call, scalars):
            call.execute(scalars)

    def begin(self, bucket: Bucket, scalars: Scalars, completed: Callable[[], None]) -> Run:
        """The kernel begun on a bucket whose matrices lie on several ranks; it is compiled for who asks for that alone.

        Whether it is need not be the same on all ranks.
        """
        call = Call(self.kernel, bucket, self.batch, self.state)
        if _compiles_pieces(self.strategy) and ("compile", call.computation) not in self.refused:
            try:
                return _begin_pieces(call, scalars, self.options, completed)
            except WrongGraph as problem:
                self._refuse(call, "compiled, it takes other steps", problem)
            except Exception as problem:  # to raise it would leave others waiting, and as it is written it may run
                self._refuse(call, "it could not be compiled", problem)
        return _begin_call(call, scalars, completed)

    def _run_fused(self, bucket: Bucket, scalars: Scalars, stored: Stored) -> bool:
        """Whether torch's fused kernel could take the tensors of the bucket, and has."""
        kernel, weights = self.kernel, self.batch.weights(bucket.params)
        lists = {name: stored.get(name) or self._listed(name, bucket.params) for name in kernel.inputs}
        known = (kernel, _forms(weights))
        if kernel.fused is None or not _are_tame(scalars.numbers.values()):
            return False
        if bucket.fused != known:
            if not _fused_fits(*lists.values()):
                return False
            bucket.fused = known if bucket.buffers else None
        elif not _are_like(weights[0], known[1], lists["grad"]):  # all else is as it was
            return False
        kernel.fused(*lists.values(), **scalars.all)
        return True

    def _listed(self, name: str, params: list[Tensor]) -> list[Tensor]:
        """The weights, gradients, or states of this name, one for each parameter."""
        match name:
            case "weight":
                return self.batch.weights(params)
            case "grad":
                return self.batch.gradients(params)
        return [self.state[p][name] for p in params]

    def _run_graph(self, call: Call, scalars: Scalars) -> bool:
        """Whether the call has run as a graph.

        It has not, and nothing has changed, if the graph takes other steps than the kernel, or cannot be compiled and
        the user did not ask for that.
        """
        name = self.strategy.name
        if (name, call.computation) in self.refused:
            return False
        try:
            call.execute_graph(scalars, name == "compile", self.options)
        except WrongGraph as problem:
            way = "compiled" if name == "compile" else "as a recorded graph"
            self._refuse(call, f"{way}, it takes other steps", problem)
            return False
        except (CompileError, torch._dynamo.exc.TorchDynamoException) as problem:
            if self.strategy.reason == FORCED:
                raise
            self._refuse(call, "it could not be compiled", problem)
            return False
        return True

    def _refuse(self, call: Call, reason: str, problem: Exception) -> None:
        """Notes, and says, why the kernel does not run as it was to."""
        self.refused[self.strategy.name, call.computation] = reason
        warnings.warn(f"{self.kernel.function.__name__} runs eagerly: {reason}: {problem}", stacklevel=2)


def _compiles_pieces(strategy: Strategy) -> bool:
    """Whether kernels whose ranks exchange values are compiled."""
    return strategy == Strategy("compile", FORCED)


def _can_compile(device: torch.device) -> bool:
    """Whether what torch.compile needs for a device is installed: a C++ compiler, or Triton."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)
    return device.type in ("cuda", "xpu") and find_spec("triton") is not None


def explain_schedule(optimizer: Any) -> str:
    """A table of how a generated optimizer runs its next step: one line for equal batches, and why they run so."""
    _require_optimizer("explain_schedule", optimizer)
    table = [("rule", "batches", "shape", "parameters", "dtype", "device", "runs", "why")]
    for batch in optimizer._collect("step", lambda rule, p: True):
        kernel = batch.rule.step
        strategy = _strategy(kernel, batch, optimizer.backend, optimizer.capturable, optimizer._refused)
        shapes: dict[tuple[str, Sharding | None], list[Bucket]] = {}
        for bucket in optimizer._arrangement.buckets(batch, kernel, kernel.layout, optimizer._roster.slots):
            unit = "×".join(map(str, bucket.entries[0][1].unit)) if len(bucket.entries[0][1].unit) == 2 else "flat"
            sharding = bucket.sharding and replace(bucket.sharding, owned=())
            whole = f"{sharding.rows}×{sharding.cols}" if sharding else unit
            shapes.setdefault((whole, sharding), []).append(bucket)
        for (shape, sharding), found in shapes.items():
            tensors, dtype = sum(len(bucket.params) for bucket in found), str(batch.dtype).removeprefix("torch.")
            row = (batch.rule.name, str(len(found)), shape, str(tensors), dtype, str(batch.device))
            runs = (strategy.name, strategy.reason)
            if sharding:
                runs = _explain_exchange(kernel, strategy, optimizer.backend, sharding, found)
            table.append((*row, *runs))
    return _columns(table)


def communication(optimizer: Any) -> Communication:
    """What this rank has sent in the last step or event of a generated optimizer: rounds, calls and bytes.

    All that the optimizer itself has sent counts: matrices and sums, and what ranks ask each other before they step.
    """
    _require_optimizer("communication", optimizer)
    total = Communication()
    total.add(optimizer._sent)
    return total


def _require_optimizer(function: str, optimizer: object) -> None:
    """TypeError unless it is an optimizer of a generated class."""
    if isinstance(optimizer, type) or not hasattr(optimizer, "RULES"):
        kind = f"the class {optimizer.__qualname__}" if isinstance(optimizer, type) else type(optimizer).__qualname__
        raise TypeError(f"`{function}` takes an optimizer of a generated class, constructed, not {kind}")


def _explain_exchange(
    kernel: Kernel, strategy: Strategy, backend: str, sharding: Sharding, buckets: Sequence[Bucket]
) -> tuple[str, str]:
    """How buckets run whose matrices lie on several ranks, and what this rank has sent for them in their last step."""
    shards = _shards_for(kernel, sharding)
    way = f"by {shards.__name__}" if shards else "whole matrices at their owners"
    if _compiles_pieces(strategy):
        way += ", in compiled pieces"
    elif backend == "compile":
        way += f", not compiled: {strategy.reason}"
    rounds = max(bucket.record.rounds for bucket in buckets)
    sent = sum(sum(bucket.record.bytes.values()) for bucket in buckets)
    last = f"; last step: {rounds} round{'s' if rounds > 1 else ''}, {sent:,} bytes sent" if rounds else ""
    return "exchange", f"{sharding.dim} lie on {sharding.ranks.size} ranks, {way}{last}"
