"""The types of equations that need each other through ``prev``: untyped functions in, a type for each equation out.

From scalars upwards every equation gets the shape of its right-hand side, until nothing changes: the smallest shapes
that fit. What a product then misses, a state that is made of nothing but itself may have to have: larger shapes are
tried for it, and one stays if with it less is wrong and every equation gives the very shape that it is taken to have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from optforge.compiler.frontend.types.inference import BOTTOM, Inference, Types
from optforge.compiler.frontend.types.open_sides import carriers, count_stretches, open_sides
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import names_read, sort_topologically
from optforge.compiler.ir.operators import OPERATORS, Want
from optforge.compiler.ir.types import SCALAR, Dim, Kind, Shape, Type, Universe, broadcast
from optforge.dsl.diagnostics import Diagnostic

Floor = dict[ir.StreamRef, Shape]  # shapes that some equations are to have at least
Missing = tuple[ir.Expr, int, Dim]  # a part, an axis, and the side that it should have there
TRIALS = 60


@dataclass(frozen=True, slots=True)
class Part:
    """One function of a rule while its types are being found."""

    owner: str
    function: ir.Function
    kinds: dict[ir.Key, Kind]


@dataclass(frozen=True, slots=True)
class Settled:
    """The types of all equations, and those equations of which nothing tells all sides."""

    types: Types
    undetermined: tuple[ir.StreamRef, ...]


def settle_types(universe: Universe, parts: Sequence[Part]) -> Settled:
    """The smallest types with which everything fits, as far as there are any."""
    ordered_parts = [replace(part, function=in_reading_order(part.function)) for part in parts]
    recursion = Recursion(universe, ordered_parts)
    known = recursion.grown(dict.fromkeys(recursion.names(), BOTTOM), {})
    differing: list[ir.StreamRef] = []
    while not differing and (larger := recursion.enlarged(known)):
        differing = [name for name in recursion.names() if len({each[name].shape for each in larger}) > 1]
        known = known if differing else larger[0]
    return Settled(known, (*differing, *recursion.undetermined(known)))


def in_reading_order(function: ir.Function) -> ir.Function:
    """The function with every equation after those that it reads, as far as that can be."""
    by_name = {equation.name: equation for equation in function.equations}
    graph = {equation.name: names_read(equation.value) for equation in function.equations}
    order, _ = sort_topologically(graph, by_name)
    return replace(function, equations=tuple(by_name[name] for name in order))


@dataclass(frozen=True, slots=True)
class Recursion:
    """Functions whose equations need each other; types go in and better ones come out."""

    universe: Universe
    parts: Sequence[Part]

    @property
    def rank(self) -> str:
        """What the rule calls its own dimension; "" without one."""
        return self.parts[0].function.rank

    @property
    def sides(self) -> tuple[Dim, ...]:
        """The dimensions that values can have."""
        return tuple(dim for dim in Dim if dim is not Dim.RANK or self.rank)

    def inference(self, part: Part, known: Types) -> Inference:
        """Of one function, while shapes may still grow."""
        return Inference(part.owner, self.universe, "", known, part.kinds, {}, is_settled=False, rank=self.rank)

    def names(self) -> list[ir.StreamRef]:
        return [ir.StreamRef(part.owner, equation.name) for part in self.parts for equation in part.function.equations]

    def grown(self, known: Types, floor: Floor) -> Types:
        """The types after all equations were gone through until none changes."""
        known = dict(known)
        for _ in range(6 * len(known) + 10):
            changed = False
            for part in self.parts:
                inference = Inference(
                    part.owner, self.universe, "", known, part.kinds, {}, is_settled=False, rank=self.rank
                )
                for equation in part.function.equations:
                    name = ir.StreamRef(part.owner, equation.name)
                    found = inference.typed(equation.value).type
                    least = joined(known[name].shape, floor.get(name, SCALAR))
                    found = replace(found, shape=joined(least, found.shape))
                    if found != known[name]:
                        known[name], changed = found, True
            if not changed:
                break
        return known

    def enlarged(self, known: Types) -> list[Types]:
        """The smallest types that are larger and make less wrong: all that are equally good.

        Of those with which nothing more is wrong the ones are better that stretch fewer values of the data.
        """
        wrong, most = self.mistakes(known), 0
        waiting: list[Floor] = [{}] if wrong else []
        seen: list[Floor] = []
        found: list[tuple[tuple[int, int], Types]] = []
        while waiting and len(seen) < TRIALS and not (found and size(waiting[0]) > most):
            floor = waiting.pop(0)
            larger = self.grown(known, floor)
            left = self.mistakes(larger)
            if left < wrong and self.bears_itself_out(larger):
                found.append(((left, count_stretches(self.typed(larger))), larger))
                most = size(floor)
                continue
            for name, shape in self.proposals(larger):
                more = {**floor, name: shape}
                if more not in seen:
                    seen.append(more)
                    waiting.append(more)
            waiting.sort(key=size)
        best = min((cost for cost, _ in found), default=None)
        return [types for cost, types in found if cost == best]

    def typed(self, known: Types) -> dict[str, ir.Function]:
        """The functions with the types that are known so far, by owner."""
        found = {}
        for part in self.parts:
            inference = Inference(
                part.owner, self.universe, "", known, part.kinds, {}, is_settled=False, rank=self.rank
            )
            found[part.owner] = ir.map_expressions(inference.typed, part.function)
        return found

    def bears_itself_out(self, known: Types) -> bool:
        """Whether with these types every equation has its own."""
        return all(
            known[ir.StreamRef(owner, equation.name)].shape == equation.value.type.shape
            for owner, function in self.typed(known).items()
            for equation in function.equations
        )

    def mistakes(self, known: Types) -> int:
        """In how many places something would not fit."""
        found: list[Diagnostic] = []
        for part in self.parts:
            inference = replace(self.inference(part, known), report=found.append, is_settled=True)
            ir.map_expressions(inference.typed, part.function)
        return len(found)

    def proposals(self, known: Types) -> Iterator[tuple[ir.StreamRef, Shape]]:
        """Equations that may have to be larger, with the shapes to try."""
        functions = self.typed(known)
        tells_nothing = open_sides(functions)
        for owner, function in functions.items():
            wanted = [each for equation in function.equations for each in missed(equation.value)]
            wanted += [each for output in function.outputs for each in missed(output.value)]
            wanted += [each for e in function.equations for each in unmet(e, known[ir.StreamRef(owner, e.name)])]
            for part, axis, dim in wanted:
                for name, side in carriers(part, axis, owner):
                    if (name, side) in tells_nothing:
                        yield from ((name, shape) for shape in self.shapes_with(known[name].shape, side, dim))

    def undetermined(self, known: Types) -> Iterator[ir.StreamRef]:
        """The equations that have one side, and could have the other one just as well."""
        shapes = {name: known[name].shape for name in self.names()}
        vectors = {name: shape for name, shape in shapes.items() if shape and shape.count(Dim.ONE) == 1}
        tells_nothing = open_sides(self.typed(known)) if vectors else set()
        for name, shape in vectors.items():
            axis = shape.index(Dim.ONE)
            if (name, axis) in tells_nothing:
                sides = [dim for dim in self.sides if dim is not Dim.ONE]
                others = [other for dim in sides for other in self.shapes_with(shape, axis, dim)]
                if any(self.fits(known, {name: other}) for other in others):
                    yield name

    def shapes_with(self, shape: Shape | None, axis: int, dim: Dim) -> list[Shape]:
        """The shapes with this side along an axis, and as they are along the other one if they have a side there."""
        others = [shape[1 - axis]] if shape and shape[1 - axis] is not Dim.ONE else self.sides
        return [(dim, side) if axis == 0 else (side, dim) for side in others]

    def fits(self, known: Types, floor: Floor) -> bool:
        """Whether larger types make nothing wrong."""
        larger = self.grown(known, floor)
        return self.bears_itself_out(larger) and self.mistakes(larger) <= self.mistakes(known)


def joined(known: Shape | None, found: Shape | None) -> Shape | None:
    """The known shape, with the sides that were found as well; what contradicts it is left for the report."""
    try:
        return broadcast(known, found)
    except ValueError:
        return known


def size(floor: Floor) -> int:
    """How many sides are asked for."""
    return sum(side is not Dim.ONE for shape in floor.values() for side in shape)


def unmet(equation: ir.Equation, wanted: Type) -> Iterator[Missing]:
    """The sides that an equation should have and has not."""
    found = equation.value.type.shape
    for axis, dim in enumerate(wanted.shape or ()):
        if found and dim is not Dim.ONE and found[axis] is Dim.ONE:
            yield equation.value, axis, dim


def missed(value: ir.Expr) -> Iterator[Missing]:
    """What lacks a side: factors of products, and what must be square."""
    for node in ir.walk(value):
        if isinstance(node, ir.Apply) and node.operator == "matmul":
            left, right = node.arguments
            yield from lacking((left, 1), (right, 0))
        elif isinstance(node, ir.Apply) and OPERATORS[node.operator].parameters[0].want in (Want.GRAM, Want.BASIS):
            gram = node.arguments[0]
            yield from lacking((gram, 0), (gram, 1))
            if gram.type.shape == SCALAR:
                yield from ((gram, 0, dim) for dim in (Dim.ROWS, Dim.COLS))


def lacking(one: tuple[ir.Expr, int], other: tuple[ir.Expr, int]) -> Iterator[Missing]:
    """Of two sides that should be equal, the one that is not there while the other one is."""
    for (short, axis), (long, opposite) in ((one, other), (other, one)):
        if short.type.shape and long.type.shape:
            side = long.type.shape[opposite]
            if short.type.shape[axis] is Dim.ONE and side is not Dim.ONE:
                yield short, axis, side
