"""Graphs of computations: made once for tensors of some form, kept for the process, run in place of the kernel.

A graph is shared by all buckets of its form: one for an elementwise kernel, whatever the sizes, and one for each shape
otherwise. It runs compiled, or as it was recorded. Neither the values of numbers nor the step count are part of the
form. What cannot be recorded or compiled raises; the caller decides what to do then.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ..batching.counters import _is_capturing
from ..batching.parameter_batch import Scalars
from ..contract.interface import NOISE
from ..contract.precision import _compute_dtype
from ..recording.fences import _fence
from ..recording.stages import _is_single, _stages
from ..recording.tracing import NUMBERS_LIMIT, Number, Recorder, TooManyNumbers, _condition, _evaluator, _with_numbers
from .computations import Computation
from .probes import Probe, _enliven

GRAPHS_LIMIT = 512  # shapes that come and go would make graphs without end

# Elements of the probe of an elementwise graph: what is compiled when it runs first is compiled for about that many,
# which are enough for some hundred threads.
FEW_ELEMENTS, MANY_ELEMENTS = 1 << 12, 1 << 18

_Made = TypeVar("_Made", bound="Graph")

_graphs: dict[tuple[Any, ...], list[Graph]] = {}
_lock = threading.RLock()


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
        self.run: Callable[..., object] = self.module
        self.last: tuple[bytes, Tensor] | None = None
        self.problem: str | None = None  # how its steps differ from the kernel's

    def _recorded(self, stored: Mapping[str, Tensor], scalars: Scalars) -> Recorder:
        while True:
            try:
                return self._record(stored, scalars)
            except TooManyNumbers:
                self.size *= 2

    def _record(self, stored: Mapping[str, Tensor], scalars: Scalars) -> Recorder:
        """Records `self.module`, a function of the vector of numbers, of tensor scalars and of stored tensors."""
        recorders: list[Recorder] = []
        plain = {name: x.item() if isinstance(x, Tensor) else x for name, x in scalars.numbers.items()}

        def body(vector: Tensor, *tensors: Tensor) -> tuple[()]:
            recorder = Recorder(vector)
            recorders.append(recorder)
            numbers = {name: Number(recorder, value, name) for name, value in plain.items()}
            seen = {**scalars.flags, **numbers, **dict(zip(scalars.tensors, tensors, strict=False))}
            inputs = dict(zip(stored, tensors[len(scalars.tensors) :], strict=True))
            if NOISE in inputs:  # hashed in place, which compiled code is not to store
                inputs[NOISE] = inputs[NOISE].clone()
            self._write(self._results(inputs, seen), inputs)
            return ()

        vector = torch.ones(self.size, dtype=self.dtype, device=self.device)
        # Flat tensors leave no size in the graph.
        trace = make_fx(body, tracing_mode="symbolic" if self.is_elementwise else "fake", _allow_non_fake_inputs=True)
        self.module = trace(vector, *scalars.tensors.values(), *stored.values())
        return recorders[-1]

    def _results(self, stored: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[str, Any]:
        """The new value of each stored tensor, for scalars that are recorded."""
        return self.computation.results(stored, _with_numbers(self.computation.kernel.function), scalars)

    def _expected(self, stored: Mapping[str, Tensor], scalars: Scalars) -> dict[str, Any]:
        """The same, as the kernel itself gives it."""
        return self.computation.results(stored, self.computation.kernel.function, scalars.all)

    def _write(self, results: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
        """Writes the results within the graph."""
        for name, value in results.items():
            value = value.tensor() if isinstance(value, Number) else value
            if not isinstance(value, Tensor):
                stored[name].fill_(value)
            elif value is not stored[name]:
                stored[name].copy_(value)

    def compile(self, options: Mapping[str, Any]) -> None:
        """From now on runs compiled; raises CompileError, or torch.compile's error in the first run."""
        self.run = self._compiled(self.module, options)

    def _compiled(self, module: GraphModule, options: Mapping[str, Any]) -> Callable[..., Any]:
        """On a CPU inductor takes graphs of fixed shapes directly: all that torch.compile would add is what finds the
        graph for a call, as `_graph_for` has done, in tens of microseconds for each call.
        """
        options = {**_safe_options(self.computation.precision), **options}
        if self.device.type == "cpu" and not self.is_elementwise:
            return _staged(module, lambda each: _compile(_fence(each), options))
        return _compile_when_run(_fence(module), self.is_elementwise, options)

    def stage(self, prepare: Callable[[GraphModule], Callable[..., object]]) -> None:
        """From now on runs in stages."""
        self.run = _staged(self.module, prepare)

    def probe(self, stored: Mapping[str, Tensor], scalars: Scalars) -> None:
        """Compares a step with the kernel's, on other data than the `stored`; notes in `problem` how they differ."""
        numbers = _enliven(scalars.numbers, self._admits)
        tensors = {name: torch.full_like(x, 0.75) for name, x in scalars.tensors.items()}
        elements = FEW_ELEMENTS if self.run is self.module else MANY_ELEMENTS
        probe = Probe(self.computation, self._expected, stored, Scalars(numbers, tensors, scalars.flags), elements)
        self.problem = probe.problem(self)

    def _admits(self, numbers: Mapping[str, Any]) -> bool:
        """Whether the graph may run for these numbers, of which it computes none that is NaN."""
        try:
            return self.holds(*numbers.values()) and not any(map(math.isnan, self.evaluate(*numbers.values())))
        except (ArithmeticError, ValueError):
            return False

    def __call__(self, stored: Mapping[str, Tensor], scalars: Scalars) -> None:
        self.run(self._vector(scalars), *scalars.tensors.values(), *stored.values())

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


def _staged(module: GraphModule, prepare: Callable[[GraphModule], Callable[..., Any]]) -> Callable[..., Any]:
    """The graph in stages, each as `prepare` makes it runnable; a single operation runs as it is."""
    *early, last = _stages(module)
    first = [each.forward if _is_single(each) else prepare(each) for each in early]
    then = prepare(last)

    def run(*tensors: Tensor) -> Any:
        for each in first:
            each(*tensors)
        return then(*tensors)

    return run


class CompileError(RuntimeError):
    """A graph that torch's compiler fails on."""


class WrongGraph(RuntimeError):
    """A graph whose steps are not those of its kernel."""


def _compile(module: GraphModule, options: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The graph compiled for the shapes that it was recorded for."""
    import torch._inductor

    examples = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    try:
        return torch._inductor.compile(module, examples, options=options)  # type: ignore[no-any-return]
    except Exception as error:  # it can fail in any part of the compiler
        raise CompileError(str(error)) from error


def _compile_when_run(module: GraphModule, dynamic: bool, options: dict[str, Any]) -> Callable[..., Any]:
    """The graph compiled for the shapes of its first run or, if `dynamic`, for all sizes."""
    return torch.compile(module, fullgraph=True, dynamic=dynamic, options=options)


def _safe_options(precision: str) -> dict[str, Any]:
    """Options of torch.compile around what is known to fail.

    Fused loops that write a tensor and reduce it by rows are not compiled. And a cast to 16 bits and back is left out,
    unless asked for; what rounding takes off the weight, which "kahan" keeps and "master" looks for, would be zero.
    The width of vectors is said, as inductor keeps loops on disk under a key without it: a processor of the same kind
    with narrower vectors (another machine of a cluster, ATEN_CPU_CAPABILITY) would compute every second element.
    """
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    options: dict[str, Any] = {"emulate_precision_casts": True} if precision in ("kahan", "master") else {}
    if hasattr(config.cpp, "max_horizontal_fusion_size"):
        options["cpp.max_horizontal_fusion_size"] = 0
    if config.cpp.simdlen is None:
        options["cpp.simdlen"] = int(pick_vec_isa().bit_width())
    return options


def _graph_for(
    computation: Computation,
    stored: Mapping[str, Tensor],
    scalars: Scalars,
    compiled: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph for these tensors that holds for these scalars, recorded if there is none yet.

    Raises:
        WrongGraph: its steps differ from those of the kernel. A graph that is recorded during the capture of a CUDA
            graph, which would hold the probe as well, is not probed.
    """
    return _known_graph(
        lambda: Graph(computation, stored, scalars), (computation,), stored, scalars, compiled, options or {}
    )


def _known_graph(
    make: Callable[[], _Made],
    what: tuple[Any, ...],
    stored: Mapping[str, Tensor],
    scalars: Scalars,
    compiled: bool,
    options: Mapping[str, Any],
) -> _Made:
    """What was made of `what` for tensors like these and holds for these scalars, or is now."""
    flat = what[-1].kernel.layout == "elementwise"
    forms = tuple((x.dtype, x.device, x.ndim if flat else x.shape) for x in stored.values())
    kinds = tuple((name, x.shape) for name, x in scalars.tensors.items())
    settings = (torch.get_num_threads(), _hashable(options)) if compiled else ()
    key = (what, forms, kinds, tuple(scalars.numbers), tuple(scalars.flags.items()), settings)
    with _lock:
        if len(_graphs) > GRAPHS_LIMIT:
            _graphs.clear()
        graphs = _graphs.setdefault(key, [])
        graph: Any = next((each for each in graphs if each.holds(*scalars.numbers.values())), None)
        if graph is None:
            graph = make()
            if compiled:
                graph.compile(options)
            if not _is_capturing():
                graph.probe(stored, scalars)
            graphs.append(graph)
    if graph.problem is not None:
        raise WrongGraph(graph.problem)
    found: _Made = graph
    return found


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
