"""On which side each value of a function is computed when one dimension of its matrices is cut into shards.

A value is local, where every rank has its shard of it (all of it, if the dimension does not occur), or with the owner:
one rank has all of it. Which is cheapest is a minimum cut of the dataflow. Going to the owner costs the size of what
is sharded, once for each value however often it is read there, and coming back its whole size; a reduction over shards
costs a little, and of equal ways the one with more local work is taken. Weight and gradient are local. Matrices of
(rows, rows) or (cols, cols), and operators that see all of a matrix at once, are with the owner; a state is on one
side before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from optforge.compiler.analysis.sharding.dataflow import Dataflow, Tensor, dataflow_of
from optforge.compiler.analysis.sharding.minimum_cut import NEVER, Network
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Across
from optforge.compiler.ir.shards import reduced_dims
from optforge.compiler.ir.types import FULL, GRAMS, Dim, Shape

LENGTH = 1024  # of a dimension, when costs are compared
ELEMENT = 16  # what an element costs that is sent; a value that is not local costs 1
ROUND = 100  # what a reduction costs beside its result, which goes there and back
STATE = 10  # a state of full shape that the owner has costs this part of sending it


class Side(Enum):
    LOCAL = "local"
    OWNER = "owner"

    __hash__ = object.__hash__


class Weight(Enum):
    """The new weight, as a reader of what it is made of."""

    NEW = "weight"

    __hash__ = object.__hash__


Node: TypeAlias = "int | str | Weight"  # a value by its number, a state by its name


@dataclass(frozen=True, slots=True)
class Cut:
    """What is cut: a dimension of the matrices. ``split`` says that a parameter holds several of these.

    Then a shard has rows of several matrices, and what is one thing for each matrix is with the owner. What is to be
    computed in the same way for matrices that are cut along another dimension names that as well, in ``other``.
    """

    dim: Dim
    split: bool = False
    other: Dim | None = None


SPLIT = Cut(Dim.ROWS, split=True)
EITHER = Cut(Dim.ROWS, other=Dim.COLS)  # for one text that serves both dimensions


@dataclass(frozen=True, slots=True)
class Placement:
    """How a function is computed for matrices that are cut.

    Attributes:
        cut: along which dimension.
        dataflow: the values, to which the numbers below refer.
        sides: where each value is.
        owned: the states that are with the owner.
        down: values that go to the owner, as shards.
        up: values that come back from it.
        reductions: local values that are combined over all shards.
        rounds: how often ranks wait for others; what is ready at the same time travels together.
    """

    cut: Cut
    dataflow: Dataflow
    sides: tuple[Side, ...]
    owned: frozenset[str]
    down: tuple[int, ...]
    up: tuple[int, ...]
    reductions: tuple[int, ...]
    rounds: int

    @property
    def is_local(self) -> bool:
        """Whether every rank can do its part alone."""
        return not self.reductions and not self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether something must be seen whole."""
        return bool(self.owned) or Side.OWNER in self.sides

    def values(self, numbers: Iterable[int]) -> list[Tensor]:
        return [self.dataflow.values[number] for number in numbers]


def place(function: ir.Function, cut: Cut, owned: Set[str] | None = None) -> Placement:
    """The cheapest placement; ``owned`` are the states with the owner where another function has decided that."""
    return Placing(function, cut, owned).placement()


def place_as_run(function: ir.Function, cut: Cut) -> Placement:
    """What a step does where its matrices are cut, as one text serves rows and columns.

    A step with a dimension of its own has no text for shards: owners compute all of it.
    """
    placed = place(function, cut)
    if placed.is_local:
        return placed
    if function.rank:
        placing = Placing(function, cut, None)
        return placing.placement(placing.sides_of_owners())
    return placed if cut.split else Placing(function, cut, None).placement(Placing(function, EITHER, None).sides())


class Interactions:
    """Along which dimensions elements of one matrix interact in the functions of the rule that has this step."""

    def __init__(self, step: ir.Function) -> None:
        self.step = step
        self.placements = [place(step, Cut(dim)) for dim in (Dim.ROWS, Dim.COLS)]

    def along(self, function: ir.Function) -> tuple[Dim, ...]:
        """In a function of the rule, for which states are where the step has them."""
        if function is self.step:
            placed = self.placements
        else:
            placed = [place(function, each.cut, each.owned) for each in self.placements]
        return tuple(each.cut.dim for each in placed if not each.is_local)


class Placing:
    """One function while its values are placed."""

    def __init__(self, function: ir.Function, cut: Cut, owned: Set[str] | None) -> None:
        self.cut, self.given = cut, owned
        self.dataflow = dataflow_of(function)
        self.values = self.dataflow.values
        self.inputs = {
            value.expr.key: number for number, value in enumerate(self.values) if isinstance(value.expr, ir.Input)
        }
        self.uniform: list[bool] = []
        for value in self.values:
            reads = [self.uniform[each] for each in value.reads]
            is_combined = isinstance(value.expr, ir.Input) and value.expr.source is ir.InputSource.COMBINED
            self.uniform.append(is_combined or (not isinstance(value.expr, ir.Input) and all(reads)))
        self.readers: list[list[Node]] = [[] for _ in self.values]
        for number, value in enumerate(self.values):
            for each in value.reads:
                self.readers[each].append(number)
        self.states = dict(self._states(function))
        for name, number in self.dataflow.outputs.items():
            self.readers[number].append(name if name in self.states else Weight.NEW)

    def _states(self, function: ir.Function) -> Iterable[tuple[str, Shape]]:
        """The states that the function reads or writes."""
        for value in self.values:
            if isinstance(value.expr, ir.Input) and value.expr.source is ir.InputSource.STATE:
                yield value.expr.name, value.shape
        for output in function.outputs:
            if output.name not in ("weight", "factor", "loss") and output.value.type.shape is not None:
                yield output.name, output.value.type.shape

    # What must be where

    def is_sharded(self, value: Tensor) -> bool:
        return self.cut.dim in value.shape

    def is_whole(self, number: int) -> bool:
        """Whether only the owner can have the value."""
        value, dim = self.values[number], self.cut.dim
        if isinstance(value.expr, ir.Input) and value.expr.source is not ir.InputSource.STATE:
            return False
        if value.shape in GRAMS or (self.cut.split and self.is_whole_of_split(number)):
            return True
        if not isinstance(value.expr, ir.Apply):
            return False
        match OPERATORS[value.expr.operator].across:
            case Across.WHOLE:
                return True
            case Across.ORDER:
                return bool({dim, self.cut.other} & {*reduced_dims(value.expr)})
            case Across.PRODUCT:
                shapes = [each.type.shape for each in value.expr.arguments]
                assert shapes[0] is not None
                return shapes[0][1] in (dim, self.cut.other) or any(shape in GRAMS for shape in shapes)
            case _:
                return False

    def is_whole_of_split(self, number: int) -> bool:
        """Whether the value is one thing for each of the matrices in a parameter, or made of such things."""
        value = self.values[number]
        if self.uniform[number]:
            return False
        is_product = isinstance(value.expr, ir.Apply) and OPERATORS[value.expr.operator].across is Across.PRODUCT
        return is_product or not self.is_sharded(value)

    def is_reduced(self, value: Tensor) -> bool:
        """Whether the value is a reduction over what is sharded."""
        is_reduction = isinstance(value.expr, ir.Apply) and OPERATORS[value.expr.operator].reduces
        return is_reduction and self.cut.dim in reduced_dims(value.expr)

    # The cut

    def network(self) -> Network:
        network = Network(Side.LOCAL, Side.OWNER)
        for number, value in enumerate(self.values):
            network.edge(Side.LOCAL, number, 1)
            if isinstance(value.expr, ir.Input) and value.expr.source is not ir.InputSource.STATE:
                network.edge(Side.LOCAL, number, NEVER)
            if self.is_whole(number):
                network.edge(number, Side.OWNER, NEVER)
            elif self.is_reduced(value):
                network.edge(number, Side.OWNER, 2 * ELEMENT * size(value.shape) + ROUND)
            network.edge(number, ("down", number), self.down_cost(value))
            network.edge(("up", number), number, self.up_cost(value))
            for reader in self.readers[number]:
                network.edge(("down", number), reader, NEVER)
                network.edge(reader, ("up", number), NEVER)
        network.edge(Side.LOCAL, Weight.NEW, NEVER)
        for name, shape in self.states.items():
            self.keep(network, name, shape)
        return network

    def keep(self, network: Network, name: str, shape: Shape) -> None:
        """A state is read where it was written."""
        if ir.stored(name) in self.inputs:
            number = self.inputs[ir.stored(name)]
            network.edge(name, number, NEVER)
            network.edge(number, name, NEVER)
        is_of_split = self.cut.split and self.cut.dim not in shape
        if shape in GRAMS or is_of_split or (self.given is not None and name in self.given):
            network.edge(name, Side.OWNER, NEVER)
        elif shape == FULL and self.given is None:
            network.edge(Side.LOCAL, name, ELEMENT * size(shape) // STATE)
        else:
            network.edge(Side.LOCAL, name, NEVER)

    def down_cost(self, value: Tensor) -> int:
        """What every rank knows, the owner knows; noise stays, as what is drawn from it is as large."""
        if isinstance(value.expr, ir.Input) and value.expr.key == ir.NOISE:
            return NEVER
        return ELEMENT * size(value.shape) if self.is_sharded(value) else 0

    def up_cost(self, value: Tensor) -> int:
        """What is one thing for each of several matrices in a parameter comes back once for each of their rows."""
        spread = LENGTH if self.cut.split and not self.is_sharded(value) else 1
        return ELEMENT * size(value.shape) * spread

    # What follows from it

    def sides(self) -> dict[Node, Side]:
        local = self.network().source_part()
        sides = {node: Side.LOCAL if node in local else Side.OWNER for node in (*range(len(self.values)), *self.states)}
        sides[Weight.NEW] = Side.LOCAL
        return sides

    def sides_of_owners(self) -> dict[Node, Side]:
        """Those of a step that owners compute: what it reads and leaves is with the ranks, noise with who needs it."""
        sides: dict[Node, Side] = dict.fromkeys(range(len(self.values)), Side.OWNER)
        for number, value in enumerate(self.values):
            if isinstance(value.expr, ir.Input) and value.expr.key != ir.NOISE:
                sides[number] = Side.LOCAL
        return {**sides, **dict.fromkeys(self.states, Side.LOCAL), Weight.NEW: Side.LOCAL}

    def placement(self, sides: dict[Node, Side] | None = None) -> Placement:
        """The cheapest, or what follows where these sides are given."""
        sides = self.sides() if sides is None else sides
        crossing = [
            number
            for number in range(len(self.values))
            if any(self.crosses(sides, number, reader) for reader in self.readers[number])
        ]
        reductions = [
            number for number, value in enumerate(self.values) if sides[number] is Side.LOCAL and self.is_reduced(value)
        ]
        return Placement(
            self.cut,
            self.dataflow,
            tuple([sides[number] for number in range(len(self.values))]),
            frozenset(name for name in self.states if sides[name] is Side.OWNER),
            tuple([number for number in crossing if sides[number] is Side.LOCAL]),
            tuple([number for number in crossing if sides[number] is Side.OWNER]),
            tuple(reductions),
            self.rounds(sides, set(reductions)),
        )

    def crosses(self, sides: dict[Node, Side], number: int, reader: Node) -> bool:
        """Whether something is sent so that the reader can have the value."""
        value = self.values[number]
        if sides[number] is sides[reader]:
            return False
        return sides[number] is Side.OWNER or self.is_sharded(value)

    def rounds(self, sides: dict[Node, Side], reductions: Set[int]) -> int:
        """The longest chain of exchanges."""
        levels: list[int] = []
        for number, value in enumerate(self.values):
            ready = [levels[each] + self.crosses(sides, each, number) for each in value.reads]
            levels.append(max(ready, default=0) + (number in reductions))
        ends = [
            levels[number] + self.crosses(sides, number, reader)
            for number, readers in enumerate(self.readers)
            for reader in readers
        ]
        return max(ends, default=0)


def size(shape: Shape) -> int:
    return (1 if shape[0] is Dim.ONE else LENGTH) * (1 if shape[1] is Dim.ONE else LENGTH)
