"""The tensors of a function and what each is made of: names resolved, equal ones found once.

Numbers of Python are known wherever they are needed and take no part. So do tensors that are made of them alone: each
place that reads one has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import dependencies, references, sort_topologically
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Phase, Shape


@dataclass(frozen=True, slots=True)
class Tensor:
    """The expression that makes it, the values which that reads, and the equation that it is the value of, if any."""

    expr: ir.Expr
    reads: tuple[int, ...]
    name: EquationName | None

    @property
    def shape(self) -> Shape:
        assert self.expr.type.shape is not None
        return self.expr.type.shape

    @property
    def is_constant(self) -> bool:
        """Made of numbers alone, so that it is the same wherever it is made."""
        return is_constant(self.expr, self.reads)


@dataclass(frozen=True, slots=True)
class Dataflow:
    """The values of a function, each after all that it reads; which is each output, and each node by its identity."""

    values: tuple[Tensor, ...]
    outputs: Mapping[str, int]
    nodes: Mapping[int, int]


def dataflow_of(function: ir.Function) -> Dataflow:
    """The values that the outputs of a function need."""
    walk = Walk(function)
    graph = dependencies(function.equations)
    outputs = {}
    for output in function.outputs:
        for name in sort_topologically(graph, references(output.value))[0]:
            walk.look_at(name)  # one after the other, as a long chain of them is deeper than Python's stack
        outputs[output.name] = walk.number(output.value)
    return Dataflow(tuple(walk.values), outputs, walk.nodes)


class Walk:
    """A walk over a function, from its outputs to its inputs."""

    def __init__(self, function: ir.Function) -> None:
        self.equations = {equation.name: equation.value for equation in function.equations}
        self.values: list[Tensor] = []
        self.named: dict[EquationName, int] = {}
        self.known: dict[object, int] = {}
        self.nodes: dict[int, int] = {}

    def number(self, expr: ir.Expr, name: EquationName | None = None) -> int:
        """The number of the expression's value, which is a new one unless an equal one has been seen."""
        if isinstance(expr, ir.Ref):
            self.nodes[id(expr)] = self._named(expr.name)
            return self.nodes[id(expr)]
        reads = tuple([self.number(each) for each in operands(expr) if each.type.phase is Phase.STREAM])
        key = len(self.values) if is_constant(expr, reads) else self._key(expr, reads)
        if key not in self.known:
            self.known[key] = len(self.values)
            self.values.append(Tensor(expr, reads, name))
        self.nodes[id(expr)] = self.known[key]
        return self.known[key]

    def look_at(self, name: EquationName) -> None:
        """Number the value of an equation, if it is one of tensors."""
        if self.equations[name].type.phase is Phase.STREAM:
            self._named(name)

    def _named(self, name: EquationName) -> int:
        if name in self.named:
            return self.named[name]
        number = self.number(self.equations[name], name)
        if not self.values[number].is_constant:
            self.named[name] = number
        return number

    def _key(self, expr: ir.Expr, reads: tuple[int, ...]) -> object:
        """What an equal expression of equal values has as well; what stands in the place of a value does not count."""
        if isinstance(expr, ir.Input):
            return expr.key
        head = expr.operator if isinstance(expr, ir.Apply) else type(expr)
        numbers = tuple([each if each.type.is_scalar_phase else None for each in ir.children(expr)])
        return head, numbers, reads, expr.type


def is_constant(expr: ir.Expr, reads: tuple[int, ...]) -> bool:
    is_placed = isinstance(expr, ir.Apply) and OPERATORS[expr.operator].is_stream
    return not reads and not is_placed and not isinstance(expr, ir.Input)


def operands(expr: ir.Expr) -> tuple[ir.Expr, ...]:
    """What a tensor is made of; the condition of a choice that Python makes is none of it."""
    if isinstance(expr, ir.Select) and expr.condition.type.is_scalar_phase:
        return expr.then, expr.otherwise
    return ir.children(expr)
