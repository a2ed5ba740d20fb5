"""A step on shards: pure functions of what a rank has, and between them the requests that ranks answer together.

One form serves matrices that are cut between rows and such that are cut between columns: what need not cross is
answered at once. A stage's outputs are what its requests are made of; the results are inputs of later stages by the
names of the requests, as what is combined over parameters is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Across, elementwise_shape
from optforge.compiler.ir.types import Dim, Type


@dataclass(frozen=True, slots=True)
class Reduced:
    """The output ``name`` of the stage reduced, by ``sum``, ``mean``, ``norm``, ``amax`` or ``amin`` along an axis."""

    name: str
    operator: str
    axis: str
    type: Type


@dataclass(frozen=True, slots=True)
class Owned:
    """A function of whole matrices, computed by their owner.

    It reads the outputs ``sent`` of the stage, states that are with the owner, and ``carried``, what an earlier one has
    left there. It gives what comes ``back`` as shards, what is ``left`` for a later one, which may be the same, and the
    new values of the states ``kept``; those that it only ``reads`` another one gives.
    """

    function: ir.Function
    sent: tuple[str, ...]
    back: tuple[str, ...]
    kept: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def returned(self) -> tuple[ir.Output, ...]:
        """What comes back as shards."""
        given = {output.name: output for output in self.function.outputs}
        return tuple(given[name] for name in self.back)


def reduced_dims(expr: ir.Expr) -> tuple[Dim, ...]:
    """The dimensions along which a reduction, or what depends on an order, sees all elements; of others none."""
    if not isinstance(expr, ir.Apply):
        return ()
    operator = OPERATORS[expr.operator]
    if not operator.reduces and operator.across is not Across.ORDER:
        return ()
    whole = elementwise_shape(tuple([each.type.shape for each in expr.arguments[: operator.values]]), "all")
    assert whole is not None
    axis = expr.arguments[-1]
    name = axis.value if isinstance(axis, ir.Literal) else "all"
    return {"row": whole[1:], "col": whole[:1]}.get(str(name), whole)


Request: TypeAlias = Reduced | Owned


@dataclass(frozen=True, slots=True)
class ShardStage:
    """A function of shards and what is asked for of its outputs before the next stage; the last one asks nothing."""

    function: ir.Function
    requests: tuple[Request, ...] = ()


def answers_of(request: Request) -> tuple[str, ...]:
    """The names of what later stages read."""
    return (request.name,) if isinstance(request, Reduced) else request.back


def kept_by(stages: Iterable[ShardStage]) -> frozenset[str]:
    """The states that owners keep."""
    requests = [request for stage in stages for request in stage.requests]
    return frozenset(name for request in requests if isinstance(request, Owned) for name in request.kept)


def operands_of(request: Request) -> tuple[str, ...]:
    """The names of the stage's outputs that it is made of."""
    return (request.name,) if isinstance(request, Reduced) else request.sent
