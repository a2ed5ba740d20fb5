"""Graphs of computations: made once for tensors of some form, kept for the process, run in place of the kernel.

A graph is shared by all buckets of its form: one for an elementwise kernel, whatever the sizes, and one for each shape
otherwise. It runs compiled, or as it was recorded. Neither the values of numbers nor the step count are part of the
form. What cannot be recorded or compiled raises; the caller decides what to do then.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from .computations import Computation, _compute_dtype
from .stages import _is_single, _results, _stages
from .tracing import NUMBERS_LIMIT, Number, Recorder, TooManyNumbers, _condition, _evaluator, _with_numbers

GRAPHS_LIMIT = 512  # shapes that come and go would make graphs without end

_graphs: dict[tuple[Any, ...], list[Graph]] = {}
_lock = threading.RLock()


@dataclass(frozen=True)
class Scalars:
    """The scalars of a call by their part in graphs: `numbers` stay outside, `tensors` are operands, `flags` decide."""

    numbers: dict[str, Any]  # Python numbers, or 0-d tensors of float64 where the device counts
    tensors: dict[str, Tensor]
    flags: dict[str, bool | str]

    @property
    def all(self) -> dict[str, Any]:
        """As the kernel takes them."""
        return {**self.numbers, **self.tensors, **self.flags}


class Graph:
    """A computation recorded for tensors of one form; it may run for the scalars that it `holds` for."""

    def __init__(self, computation: Computation, stored: Mapping[str, Tensor], scalars: Scalars) -> None:
        self.computation = computation
        self.dtype = _compute_dtype(computation.dtype)
        self.is_elementwise = computation.kernel.layout == "elementwise"
        self.device = next(iter(stored.values())).device
        self.size = NUMBERS_LIMIT  # of the vector of numbers
        recorder = self._recorded(stored, scalars)
        self.expressions, self.guards = tuple(recorder.places), recorder.guards
        self.holds = _condition(recorder.guards, list(scalars.numbers))
        self.evaluate = _evaluator(self.expressions, list(scalars.numbers))
        self.run: Callable[..., tuple[Tensor, ...]] = self.module
        self.last: tuple[bytes, Tensor] | None = None

    def _recorded(self, stored: Mapping[str, Tensor], scalars: Scalars) -> Recorder:
        while True:
            try:
                return self._record(stored, scalars)
            except TooManyNumbers:
                self.size *= 2

    def _record(self, stored: Mapping[str, Tensor], scalars: Scalars) -> Recorder:
        """Records `self.module`, a function of the vector of numbers, of tensor scalars and of stored tensors."""
        recorders: list[Recorder] = []
        function = _with_numbers(self.computation.kernel.function)
        plain = {name: x.item() if isinstance(x, Tensor) else x for name, x in scalars.numbers.items()}

        def body(vector: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            recorder = Recorder(vector)
            recorders.append(recorder)
            numbers = {name: Number(recorder, value, name) for name, value in plain.items()}
            seen = {**scalars.flags, **numbers, **dict(zip(scalars.tensors, tensors, strict=False))}
            inputs = dict(zip(stored, tensors[len(scalars.tensors) :], strict=True))
            return self._write(self.computation.results(inputs, function, seen), inputs)

        vector = torch.ones(self.size, dtype=self.dtype, device=self.device)
        # Flat tensors leave no size in the graph.
        trace = make_fx(body, tracing_mode="symbolic" if self.is_elementwise else "fake", _allow_non_fake_inputs=True)
        self.module = trace(vector, *scalars.tensors.values(), *stored.values())
        return recorders[-1]

    def _write(self, results: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Writes the results within the graph; returns the weight if it is still to be rounded stochastically."""
        left = []
        for name, value in results.items():
            value = value.tensor() if isinstance(value, Number) else value
            if name == "weight" and self.computation.precision == "stochastic":
                left.append(value)
            elif not isinstance(value, Tensor):
                stored[name].fill_(value)
            elif value is not stored[name]:
                stored[name].copy_(value)
        return tuple(left)

    def compile(self, options: Mapping[str, Any]) -> None:
        """From now on runs compiled; raises CompileError, or torch.compile's error in the first run.

        On a CPU inductor takes graphs of fixed shapes directly: all that torch.compile would add is what finds the
        graph for a call, as `_graph_for` has done, in tens of microseconds for each call.
        """
        options = {**_safe_options(self.computation.precision), **options}
        if self.device.type == "cpu" and not self.is_elementwise:
            self.stage(lambda module: _compiled(module, options))
        else:
            self.run = torch.compile(self.module, fullgraph=True, dynamic=self.is_elementwise, options=options)

    def stage(self, prepare: Callable[[GraphModule], Callable[..., tuple[Tensor, ...]]]) -> None:
        """From now on runs in stages, each as `prepare` makes it runnable; a single operation runs as it is."""
        count = len(_results(self.module.graph))
        *early, last = _stages(self.module)
        first = [each.forward if _is_single(each) else prepare(each) for each in early]
        then = prepare(last)

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            for each in first:
                each(*tensors)
            return then(*tensors)[:count]

        self.run = run

    def __call__(self, stored: Mapping[str, Tensor], scalars: Scalars) -> tuple[Tensor, ...]:
        return self.run(self._vector(scalars), *scalars.tensors.values(), *stored.values())

    def _vector(self, scalars: Scalars) -> Tensor:
        """The numbers of this step, as the graph reads them."""
        values = self.evaluate(*scalars.numbers.values())
        if any(isinstance(value, Tensor) for value in values):
            return self._vector_on_device(values)
        last, numbers = self.last, array("d", values)
        if last is not None and last[0] == numbers.tobytes():  # 0.0 == -0.0, and NaN is not NaN
            return last[1]
        padded = [*numbers, *[1.0] * (self.size - len(numbers))]
        vector = torch.tensor(padded, dtype=self.dtype, pin_memory=self.device.type == "cuda")
        vector = vector.to(self.device, non_blocking=True)
        self.last = (numbers.tobytes(), vector)
        return vector

    def _vector_on_device(self, values: tuple[Any, ...]) -> Tensor:
        """The same without a transfer, so that a capture can hold it: numbers that Python knows become constants."""
        vector = torch.ones(self.size, dtype=self.dtype, device=self.device)
        for i, value in enumerate(values):
            if isinstance(value, Tensor):
                vector[i].copy_(value)
            else:
                vector[i].fill_(value)
        return vector


class CompileError(RuntimeError):
    """A graph that torch's compiler fails on."""


def _compiled(module: GraphModule, options: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The graph compiled for the shapes that it was recorded for."""
    import torch._inductor

    examples = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    try:
        return torch._inductor.compile(module, examples, options=options)  # type: ignore[no-any-return]
    except Exception as error:  # it can fail in any part of the compiler
        raise CompileError(str(error)) from error


def _safe_options(precision: str) -> dict[str, Any]:
    """Options of torch.compile around what is known to fail.

    Fused loops that write a tensor and reduce it by rows are not compiled. And a cast to 16 bits and back is left out,
    unless asked for; what rounding takes off the weight, which "kahan" keeps and "master" looks for, would be zero.
    """
    from torch._inductor import config

    options: dict[str, Any] = {"emulate_precision_casts": True} if precision in ("kahan", "master") else {}
    if hasattr(config.cpp, "max_horizontal_fusion_size"):
        options["cpp.max_horizontal_fusion_size"] = 0
    return options


def _graph_for(
    computation: Computation,
    stored: Mapping[str, Tensor],
    scalars: Scalars,
    compiled: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph for these tensors that holds for these scalars, recorded if there is none yet."""
    flat = computation.kernel.layout == "elementwise"
    forms = tuple((x.dtype, x.device, x.ndim if flat else x.shape) for x in stored.values())
    kinds = tuple((name, x.shape) for name, x in scalars.tensors.items())
    settings = (torch.get_num_threads(), _hashable(options or {})) if compiled else ()
    key = (computation, forms, kinds, tuple(scalars.numbers), tuple(scalars.flags.items()), settings)
    with _lock:
        if len(_graphs) > GRAPHS_LIMIT:
            _graphs.clear()
        graphs = _graphs.setdefault(key, [])
        for graph in graphs:
            if graph.holds(*scalars.numbers.values()):
                return graph
        graph = Graph(computation, stored, scalars)
        if compiled:
            graph.compile(options or {})
        graphs.append(graph)
        return graph


def _hashable(option: Any) -> Any:
    """A key that equal options of torch.compile share, whatever they are made of."""
    if isinstance(option, Mapping):
        return "mapping", frozenset((name, _hashable(value)) for name, value in option.items())
    if isinstance(option, (list, tuple)):
        return "sequence", tuple(map(_hashable, option))
    if isinstance(option, (set, frozenset)):
        return "set", frozenset(map(_hashable, option))
    try:
        hash(option)
    except TypeError:
        return "text", repr(option)
    return type(option), option  # 1 and True are equal


def _forget_graphs() -> None:
    with _lock:
        _graphs.clear()
