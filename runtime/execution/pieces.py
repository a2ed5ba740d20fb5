"""Kernels whose ranks exchange values, as compiled pieces: all that is computed here from one exchange to the next.

A step is recorded once, with exchanges as opaque operations, and cut at them. Each rank does so for itself: what is
sent is the same in number and form as without, so that others need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..batching.parameter_batch import Scalars
from ..contract.interface import NOISE
from ..contract.precision import _compute_dtype
from ..exchange.drive import Forms, Run, Step, _answer_alone
from ..exchange.over import Over
from ..exchange.packing import Message, Partial, _arriving, _tensors_of, _with_tensors
from ..exchange.sharding import Ranks
from ..linalg.orthogonal import _dtypes_of_iteration
from ..recording.cuts import Piece, Segment, _cut, _exchange_operator
from ..recording.tracing import _with_numbers
from .calls import Call
from .computations import Computation
from .crossing import Crossing, _as_it_is, _over
from .graphs import Graph, WrongGraph, _known_graph

_RunPiece = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class _Compiled:
    """A part as it runs; without a function where there is nothing to compute."""

    part: Segment
    run: _RunPiece | None

    def add_to(self, known: dict[str, Tensor]) -> None:
        """Computes what is given, under its names."""
        if self.run is not None:
            found = self.run(*(known[name] for name in self.part.takes))
            known.update(zip(self.part.gives, found, strict=False))  # what else is returned is for the compiler


class Pieces(Graph):
    """A crossing kernel recorded for tensors of one form and cut; it may run for the scalars that it `holds` for."""

    def __init__(
        self, computation: Computation, crossing: Crossing, stored: Mapping[str, Tensor], scalars: Scalars
    ) -> None:
        if computation.kernel.layout == "elementwise":
            raise NotImplementedError("a kernel of elements that owners alone have")
        if NOISE in computation.kernel.inputs and crossing.shards is None:
            raise NotImplementedError("a kernel that draws, for matrices that owners alone see")
        self.crossing = crossing
        self.forms: Forms = ()
        super().__init__(computation, stored, scalars)
        self.names = [node.name for node in self.module.graph.nodes if node.op == "placeholder"]
        self.pieces: list[Piece] = _cut(self.module)
        if len(self.pieces) != len(self.forms) + 1:
            raise WrongGraph("an exchange has got lost")
        self.compiled = [_Compiled(piece.part, piece.part.module.forward) for piece in self.pieces]

    def _results(self, stored: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[str, Any]:
        forms: list[list[Message]] = []

        def answer(messages: list[Message]) -> Sequence[Tensor]:
            forms.append(messages)
            sent = [x for message in messages for x in _tensors_of(message)]
            found: Sequence[Tensor] = _exchange_operator(sent, [*map(_arriving, messages)])
            return found

        given, over = self.computation.given(stored), Over(self.crossing.sharding)
        values = _answer_alone(self.crossing.step(given, over, scalars, _with_numbers), answer)
        if over.failure is not None:
            raise over.failure
        self.forms = forms
        return self.computation.kept(stored, given, values)

    def compile(self, options: Mapping[str, Any]) -> None:
        """From now on runs compiled; raises CompileError, or torch.compile's error in the first run."""
        self.compiled = [
            _Compiled(each.part, None if each.part.is_empty else self._compiled(each.part.module, options))
            for each in self.pieces
        ]

    def step(self, stored: Mapping[str, Tensor], scalars: Scalars) -> Step:
        """A step by rounds, at the end of which everything is stored."""
        return self._step(self._vector(scalars), stored, scalars)

    def _step(self, vector: Tensor, stored: Mapping[str, Tensor], scalars: Scalars) -> Step:
        known = dict(zip(self.names, (vector, *scalars.tensors.values(), *stored.values()), strict=True))
        for piece, compiled, forms in zip(self.pieces, self.compiled, (*self.forms, ()), strict=True):
            compiled.add_to(known)
            if piece.sent is not None:
                sent = iter(piece.sent.module(*(known[name] for name in piece.sent.takes)))
                messages = [_with_tensors(form, [next(sent) for _ in _tensors_of(form)]) for form in forms]
                arrived = yield _asked(messages)
                known.update((name, x) for name, x in zip(piece.arrives, arrived, strict=True) if name is not None)

    def __call__(self, stored: Mapping[str, Tensor], scalars: Scalars) -> None:
        _answer_alone(self.step(stored, scalars), _as_if_alike)

    def _expected(self, stored: Mapping[str, Tensor], scalars: Scalars) -> dict[str, Any]:
        given = self.computation.given(stored)
        step = self.crossing.step(given, Over(self.crossing.sharding), scalars.all, _as_it_is)
        return self.computation.kept(stored, given, _answer_alone(step, _as_if_alike))


def _asked(messages: list[Message]) -> Generator[list[Message], Sequence[Tensor], Sequence[Tensor]]:
    """A request of one round."""
    return (yield messages)


def _as_if_alike(messages: list[Message]) -> list[Tensor]:
    """What messages would become if other ranks had what this one has, over and over."""
    return [_become(message) for message in messages]


def _become(message: Message) -> Tensor:
    if isinstance(message, Partial):
        return message.value * 2 if message.kind == "sum" else message.value
    found = _arriving(message)
    flat = torch.cat([x.reshape(-1) for x in message.outgoing])
    if not flat.numel():
        return found.fill_(0.5)
    return flat.repeat(-(-found.numel() // flat.numel()))[: found.numel()].view(found.shape)


def _pieces_for(
    computation: Computation,
    crossing: Crossing,
    stored: Mapping[str, Tensor],
    scalars: Scalars,
    options: Mapping[str, Any],
) -> Pieces:
    """The compiled pieces for these tensors that hold for these scalars, recorded if there are none yet.

    Raises:
        WrongGraph: their steps differ from those of the kernel.
    """
    ranks = crossing.sharding.ranks
    own = replace(crossing, sharding=replace(crossing.sharding, ranks=Ranks(None, ranks.rank, ranks.size)))
    key = (
        own,
        _dtypes_of_iteration(_compute_dtype(computation.dtype), next(iter(stored.values())).device),
        computation,
    )
    return _known_graph(lambda: Pieces(computation, own, stored, scalars), key, stored, scalars, True, options)


def _begin_pieces(call: Call, scalars: Scalars, options: Mapping[str, Any], completed: Callable[[], None]) -> Run:
    """As `_begin_call`, by compiled pieces."""
    stored = {name: source.batch for name, source in call.sources.items()}
    own, over = call.sized(scalars), _over(call)
    pieces = _pieces_for(call.computation, Crossing.of(call), stored, own, options)

    def finish(_: Any) -> None:
        call.write_back()
        completed()

    return Run(pieces.step(stored, own), over, finish, call.bucket.record, lambda: pieces.forms)
