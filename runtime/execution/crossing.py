"""Kernels on buckets whose matrices lie on several ranks: how a call is begun, and ended when all has come.

A kernel that says how it runs on shards does so. Of any other the whole matrices are put together, each on the rank
that owns it, and what it returns goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..batching.parameter_batch import Scalars
from ..contract.interface import NOISE, PARAMETER, Kernel, Shards
from ..exchange.communication import Communication
from ..exchange.drive import Forms, Run, Step, _list_forms
from ..exchange.over import Over
from ..exchange.sharding import FULL, Dims, Sharding
from .calls import Call

_Form = Callable[[Callable[..., Any]], Callable[..., Any]]  # of a function that is to take other scalars, or to be sent


@dataclass(frozen=True)
class Crossing:
    """A kernel on matrices that lie on several ranks; `homes` are the states that owners have whole."""

    kernel: Kernel
    sharding: Sharding
    homes: frozenset[str]
    dims: tuple[tuple[str, Dims], ...]  # of what the kernel reads and writes

    @classmethod
    def of(cls, call: Call) -> Crossing:
        assert call.bucket.sharding is not None
        forms = [*(kept for kept, _ in call.batch.states), *call.batch.forms.values()]
        dims = dict.fromkeys(PARAMETER, FULL) | {kept.name: kept.shape for kept in forms}
        return cls(call.computation.kernel, call.bucket.sharding, call.bucket.homes.states, tuple(dims.items()))

    @property
    def shards(self) -> Shards | None:
        """The kernel's function for shards such as these, if there is one."""
        return _shards_for(self.kernel, self.sharding)

    def step(self, given: Mapping[str, Tensor], over: Over, scalars: Mapping[str, Any], form: _Form) -> Step:
        """What the kernel returns, by rounds; functions of generated modules are called in this form."""
        if self.shards is None:
            return self._run_at_owners(given, over, scalars, form)
        step: Step = form(self.shards)(*(given[name] for name in self.kernel.inputs), over=over, **scalars)
        return step

    def _run_at_owners(self, given: Mapping[str, Tensor], over: Over, scalars: Mapping[str, Any], form: _Form) -> Step:
        """The kernel on whole matrices; what it returns goes back, but for the states that owners have."""
        kernel, dims, function = self.kernel, dict(self.dims), form(self.kernel.function)
        sent = [name for name in kernel.inputs if name not in self.homes and name != NOISE]
        back = [name for name in kernel.outputs if name not in self.homes]
        kept = [name for name in given if name in self.homes]
        there = [NOISE] if NOISE in kernel.inputs else []

        def at_owner(*values: Tensor, **scalars: Any) -> tuple[Tensor, ...]:
            known = dict(zip((*sent, *there, *kept), values, strict=True))
            results = function(*(known[name] for name in kernel.inputs), **scalars)
            known |= dict(zip(kernel.outputs, results, strict=True))
            return tuple(known[name] for name in (*back, *kept))

        values = yield over.whole(
            at_owner,
            *(given[name] for name in sent),
            dims=[dims[name] for name in sent],
            gives=[dims[name] for name in back],
            there=[given[name] for name in there],
            owned=[given[name] for name in kept],
            **scalars,
        )
        found = dict(zip((*back, *kept), values, strict=True))
        return tuple(found[name] for name in kernel.outputs)

    def sums(self, given: Mapping[str, Tensor], over: Over, scalars: Mapping[str, Any]) -> Step:
        """What the kernel returns for the whole matrices of this rank; nothing where it owns none."""
        kernel, dims = self.kernel, dict(self.dims)
        sent = [name for name in kernel.inputs if name not in self.homes and name != NOISE]
        there = [name for name in kernel.inputs if name not in sent]

        def at_owner(*values: Tensor, **scalars: Any) -> Any:
            known = dict(zip((*sent, *there), values, strict=True))
            return kernel.function(*(known[name] for name in kernel.inputs), **scalars)

        values = yield over.whole(
            at_owner,
            *(given[name] for name in sent),
            dims=[dims[name] for name in sent],
            gives=(),
            there=[given[name] for name in there],
            **scalars,
        )
        return values


def _begin_call(
    call: Call,
    scalars: Scalars,
    completed: Callable[[], None] = lambda: None,
) -> Run:
    """The call of a kernel that writes what it returns; `completed` is called when that is done."""
    crossing, over, known = Crossing.of(call), _over(call), call.known(scalars)
    given = _given_to_owners(call) if crossing.shards is None else call.begin()
    step = crossing.step(given, over, known, _as_it_is)

    def finish(values: Any) -> None:
        call.complete(given, values)
        completed()

    def forms() -> Forms:
        return _forms_of(crossing, given, known)

    return Run(step, over, finish, call.bucket.record, forms)


def _begin_sums(call: Call, scalars: Scalars, finish: Callable[[Sequence[Tensor]], None]) -> Run:
    """The call of a kernel of which only sums are needed: those of the matrices that this rank owns, or nothing."""
    given, over = _given_to_owners(call), _over(call)
    step = Crossing.of(call).sums(given, over, call.known(scalars))
    return Run(step, over, finish, call.bucket.record)


def _shards_for(kernel: Kernel, sharding: Sharding) -> Shards | None:
    """The kernel's function for shards such as these, if there is one; one for the layout "tensor" adds up columns."""
    if kernel.layout != "matrix" and sharding.cols > 1:
        return None
    return kernel.shards if sharding.parts == 1 else kernel.split_shards


def _forms_of(crossing: Crossing, given: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> Forms:
    """What the kernel sends in each round, from a step on tensors without values."""
    with FakeTensorMode() as mode:
        fakes = [
            {name: mode.from_tensor(x) if isinstance(x, Tensor) else x for name, x in known.items()}
            for known in (given, scalars)
        ]
        return _list_forms(crossing.step(fakes[0], Over(crossing.sharding), fakes[1], _as_it_is))


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _over(call: Call) -> Over:
    assert call.bucket.sharding is not None
    call.bucket.record = Communication()
    return Over(call.bucket.sharding)


def _given_to_owners(call: Call) -> dict[str, Tensor]:
    """What is seen of the bucket where owners run the whole kernel: the noise is that of the matrices of this rank."""
    given = call.begin()
    if NOISE in given:
        assert call.batch.noise is not None
        given[NOISE] = call.batch.noise.whole_numbers(call.bucket)
    return given
