"""Kernels on buckets whose matrices lie on several ranks: how a call is begun, and ended when all has come.

A kernel that says how it runs on shards does so. Of any other the whole matrices are put together, each on the rank
that owns it, and what it returns goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..batching.parameter_batch import Scalars
from ..contract.interface import NOISE, PARAMETER, Kernel, Shards
from ..exchange.communication import Communication
from ..exchange.drive import Run, Step
from ..exchange.over import Over
from ..exchange.sharding import FULL, Dims, Sharding
from .calls import Call


def _begin_call(
    call: Call,
    scalars: Scalars,
    completed: Callable[[], None] = lambda: None,
) -> Run:
    """The call of a kernel that writes what it returns; `completed` is called when that is done."""
    given, over = call.begin(), _over(call)
    kernel, known = call.computation.kernel, call.known(scalars)
    shards = _shards_for(kernel, over.sharding)
    if shards is not None:
        step = shards(*(given[name] for name in kernel.inputs), over=over, **known)
    else:
        step = _run_at_owners(call, over, given, known)

    def finish(values: Any) -> None:
        call.complete(given, values)
        completed()

    return Run(step, over, finish, call.bucket.record)


def _begin_sums(call: Call, scalars: Scalars, finish: Callable[[Sequence[Tensor]], None]) -> Run:
    """The call of a kernel of which only sums are needed: those of the matrices that this rank owns, or nothing."""
    given, over = call.begin(), _over(call)
    step = _summed_by_owners(call, over, given, call.known(scalars))
    return Run(step, over, finish, call.bucket.record)


def _shards_for(kernel: Kernel, sharding: Sharding) -> Shards | None:
    """The kernel's function for shards such as these, if there is one; one for the layout "tensor" adds up columns."""
    if kernel.layout != "matrix" and sharding.cols > 1:
        return None
    return kernel.shards if sharding.parts == 1 else kernel.split_shards


def _over(call: Call) -> Over:
    assert call.bucket.sharding is not None
    call.bucket.record = Communication()
    return Over(call.bucket.sharding)


def _run_at_owners(call: Call, over: Over, given: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> Step:
    """The kernel on whole matrices; what it returns goes back, but for the states that owners have."""
    kernel, homes, dims = call.computation.kernel, call.bucket.homes.states, _dims(call)
    sent = [name for name in kernel.inputs if name not in homes]
    back = [name for name in kernel.outputs if name not in homes]
    kept = [name for name in given if name in homes]
    there = [NOISE] if NOISE in sent else []  # whose matrices' noise an owner knows
    sent = [name for name in sent if name != NOISE]

    def at_owner(*values: Tensor, **scalars: Any) -> tuple[Tensor, ...]:
        known = dict(zip((*sent, *there, *kept), values, strict=True))
        results = kernel.function(*(known[name] for name in kernel.inputs), **scalars)
        known |= dict(zip(kernel.outputs, results, strict=True))
        return tuple(known[name] for name in (*back, *kept))

    values = yield over.whole(
        at_owner,
        *(given[name] for name in sent),
        dims=[dims[name] for name in sent],
        gives=[dims[name] for name in back],
        there=[_noise_of_owned(call) for _ in there],
        owned=[given[name] for name in kept],
        **scalars,
    )
    found = dict(zip((*back, *kept), values, strict=True))
    return tuple(found[name] for name in kernel.outputs)


def _summed_by_owners(call: Call, over: Over, given: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> Step:
    """What the kernel returns for the whole matrices of this rank; nothing where it owns none."""
    kernel, homes, dims = call.computation.kernel, call.bucket.homes.states, _dims(call)
    sent = [name for name in kernel.inputs if name not in homes and name != NOISE]
    there = [name for name in kernel.inputs if name not in sent]

    def at_owner(*values: Tensor, **scalars: Any) -> Any:
        known = dict(zip((*sent, *there), values, strict=True))
        return kernel.function(*(known[name] for name in kernel.inputs), **scalars)

    values = yield over.whole(
        at_owner,
        *(given[name] for name in sent),
        dims=[dims[name] for name in sent],
        gives=(),
        there=[_noise_of_owned(call) if name == NOISE else given[name] for name in there],
        **scalars,
    )
    return values


def _noise_of_owned(call: Call) -> Tensor:
    """That of the whole matrices of this rank."""
    assert call.batch.noise is not None
    return call.batch.noise.whole_numbers(call.bucket)


def _dims(call: Call) -> dict[str, Dims]:
    forms = [*(kept for kept, _ in call.batch.states), *call.batch.forms.values()]
    return dict.fromkeys(PARAMETER, FULL) | {kept.name: kept.shape for kept in forms}
