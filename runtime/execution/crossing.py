"""Kernels on buckets whose matrices lie on several ranks: how a call is begun, and ended when all has come.

A kernel that says how it runs on shards does so. Of any other the whole matrices are put together, each on the rank
that owns it, and what it returns goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..batching.parameter_batch import Scalars
from ..contract.interface import PARAMETER, Kernel
from ..exchange.collectives import Record
from ..exchange.drive import Run, Step
from ..exchange.over import Over
from ..exchange.sharding import FULL, Dims
from .calls import Call


def _begin_call(
    call: Call,
    scalars: Scalars,
    completed: Callable[[], None] = lambda: None,
) -> Run:
    """The call of a kernel that writes what it returns; `completed` is called when that is done."""
    given, over = call.begin(), _over(call)
    kernel, known = call.computation.kernel, call.known(scalars)
    if kernel.shards is not None and _suits(kernel, over):
        step = kernel.shards(*(given[name] for name in kernel.inputs), over=over, **known)
    else:
        step = _run_at_owners(call, over, given, kernel.outputs, known)

    def finish(values: Any) -> None:
        call.complete(given, values)
        completed()

    return Run(step, over, finish, call.bucket.record)


def _begin_sums(call: Call, scalars: Scalars, finish: Callable[[Sequence[Tensor]], None]) -> Run:
    """The call of a kernel of which only sums are needed: those of the matrices that this rank owns, or nothing."""
    given, over = call.begin(), _over(call)
    step = _run_at_owners(call, over, given, (), call.known(scalars))
    return Run(step, over, finish, call.bucket.record)


def _suits(kernel: Kernel, over: Over) -> bool:
    """Whether the function for shards means these: it adds up whole matrices, and in the layout "tensor" columns."""
    return over.sharding.parts == 1 and (kernel.layout == "matrix" or over.sharding.cols == 1)


def _over(call: Call) -> Over:
    assert call.bucket.sharding is not None
    call.bucket.record = Record()
    return Over(call.bucket.sharding)


def _run_at_owners(
    call: Call, over: Over, given: Mapping[str, Tensor], outputs: Sequence[str], scalars: Mapping[str, Any]
) -> Step:
    """The kernel on whole matrices; of what it returns `outputs` go back, and else all stays with the owners."""
    kernel = call.computation.kernel
    dims: dict[str, Dims] = dict.fromkeys(PARAMETER, FULL) | {kept.name: kept.shape for kept, _ in call.batch.states}
    values = yield over.whole(
        kernel.function,
        *(given[name] for name in kernel.inputs),
        dims=[dims[name] for name in kernel.inputs],
        gives=[dims[name] for name in outputs],
        **scalars,
    )
    return values
