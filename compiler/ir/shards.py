"""A step on shards: pure functions of what a rank has, and between them the requests that ranks answer together.

One form serves matrices that are cut between rows and such that are cut between columns: what need not cross is
answered at once. A stage's outputs are what its requests are made of; the results are inputs of later stages by the
names of the requests, as what is combined over parameters is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Type


@dataclass(frozen=True, slots=True)
class Reduced:
    """The output ``name`` of the stage reduced, whole: by ``sum``, ``mean``, ``norm``, ``amax`` or ``amin`` along an axis."""

    name: str
    operator: str
    axis: str
    type: Type


@dataclass(frozen=True, slots=True)
class Owned:
    """A function of whole matrices, computed by their owner.

    It reads the outputs ``sent`` of the stage and the states ``kept``, which are with the owner, and gives their new
    values as well; all its other outputs come back as shards.
    """

    function: ir.Function
    sent: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @property
    def returned(self) -> tuple[ir.Output, ...]:
        """What comes back as shards."""
        return tuple(output for output in self.function.outputs if output.name not in self.kept)


Request: TypeAlias = Reduced | Owned


@dataclass(frozen=True, slots=True)
class ShardStage:
    """A function of shards and what is asked for of its outputs before the next stage; the last one asks nothing."""

    function: ir.Function
    requests: tuple[Request, ...] = ()


def answers_of(request: Request) -> tuple[str, ...]:
    """The names of what later stages read."""
    return (request.name,) if isinstance(request, Reduced) else tuple(output.name for output in request.returned)


def operands_of(request: Request) -> tuple[str, ...]:
    """The names of the stage's outputs that it is made of."""
    return (request.name,) if isinstance(request, Reduced) else request.sent
