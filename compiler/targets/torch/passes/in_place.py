"""Memory planning: which equations may overwrite a tensor that nobody reads any more.

A tensor may be overwritten where it was computed by the function itself, or where it is the weight
or a state that the function gives back; never the gradient. Views (a transpose, a spread value,
the choice of a branch) share the storage of what they show, and keep it alive.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TypeAlias, TypeGuard

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS

Storage: TypeAlias = (
    "ir.Key | EquationName | Spread"  # of an input by its key, of a tensor that an equation makes by its name
)


class Spread(Enum):
    """The storage of a value that is shown at several places at once: never free."""

    SPREAD = "spread"


def plan_storage(function: ir.Function) -> ir.Function:
    """The scheduled function with ``in_place`` set where it is safe; never in a loss, which torch differentiates."""
    if any(output.name == "loss" for output in function.outputs):
        return function
    plan = Plan(function)
    return replace(
        function, equations=tuple(plan.planned(index, equation) for index, equation in enumerate(function.equations))
    )


class Plan:
    """The storage that each name shares, and the last equation that reads each storage."""

    def __init__(self, function: ir.Function) -> None:
        self.storage: dict[EquationName, frozenset[Storage]] = {}
        self.given_back = {ir.stored(output.name) for output in function.outputs}
        self.last_read: dict[Storage, int] = {}
        self.has_transposed = any(shows_transposed(equation.value) for equation in function.equations)
        self.common: set[EquationName] = (
            set()
        )  # equations with one value for all parameters, which follow from sums alone
        for index, equation in enumerate(function.equations):
            self.common |= {equation.name} if self.is_common(equation.value) else set()
            for node in (equation.value, *([equation.when] if equation.when else [])):
                for read in self.reads(node):
                    self.last_read[read] = index
            self.storage[equation.name] = self.shown(equation.value) or frozenset({equation.name})
        for output in function.outputs:
            for read in self.reads(output.value):
                self.last_read[read] = len(function.equations)

    def is_common(self, expr: ir.Expr) -> bool:
        """Whether there is one value for all parameters of a batch: others do not fit into its storage."""
        match expr:
            case ir.Input(source=source):
                return source not in (ir.InputSource.STREAM, ir.InputSource.STATE)
            case ir.Ref(name=name):
                return name in self.common
            case ir.Apply(operator="fill"):
                return False  # as the weight
            case _:
                return all(map(self.is_common, ir.children(expr)))

    def reads(self, expr: ir.Expr) -> set[Storage]:
        """Every storage that computing the expression reads."""
        found: set[Storage] = set()
        for node in ir.walk(expr):
            found |= self.leaf(node)
        return found

    def leaf(self, node: ir.Expr) -> frozenset[Storage]:
        if isinstance(node, ir.Input):
            return frozenset({node.key})
        if isinstance(node, ir.Ref):
            return self.storage[node.name]
        return frozenset()

    def shown(self, expr: ir.Expr) -> frozenset[Storage]:
        """The storages that the value itself may lie in; empty for a tensor of its own."""
        match expr:
            case ir.Input() | ir.Ref():
                return self.leaf(expr)
            case ir.Apply(operator="transpose" | "leading", arguments=(inner, *_)):
                return self.shown(inner)
            case ir.Apply(operator="fill", arguments=(inner,)) if not inner.type.is_scalar_phase:
                return self.shown(inner) | {Spread.SPREAD}
            case ir.Select() if expr.condition.type.is_scalar_phase:
                return self.shown(expr.then) | self.shown(expr.otherwise)
            case _:
                return frozenset()

    def planned(self, index: int, equation: ir.Equation) -> ir.Equation:
        value = equation.value
        if not isinstance(value, ir.Apply) or OPERATORS[value.operator].in_place is None:
            return equation
        if value.type.is_scalar_phase:
            return equation
        if self.may_overwrite(index, value, value.arguments):
            kept = self.leaf(value.arguments[0])
        elif self.may_swap(value) and self.may_overwrite(index, value, value.arguments[::-1]):
            value = replace(value, arguments=value.arguments[::-1])
            kept = self.leaf(value.arguments[0])
        else:
            return equation
        self.storage[equation.name] = kept
        for read in kept:
            self.last_read[read] = max(self.last_read[read], self.last_read.get(equation.name, index))
        return replace(equation, value=value, in_place=True)

    def may_swap(self, value: ir.Apply) -> bool:
        """A sum lies in memory as its first argument does, and reductions of it add in that order."""
        return OPERATORS[value.operator].commutative and not self.has_transposed

    def may_overwrite(self, index: int, value: ir.Apply, arguments: tuple[ir.Expr, ...]) -> bool:
        target, *others = arguments
        if not isinstance(target, ir.Ref | ir.Input) or target.type != value.type or self.is_common(target):
            return False
        if isinstance(target, ir.Input) and target.source not in (ir.InputSource.STATE, ir.InputSource.STREAM):
            return False
        storages = self.leaf(target)
        seen = self.reads if OPERATORS[value.operator].writes_early else self.shown
        if any(seen(other) & storages for other in others):
            return False
        return all(self.is_free(storage, index) for storage in storages)

    def is_free(self, storage: Storage, index: int) -> bool:
        if storage is Spread.SPREAD:
            return False
        if isinstance(storage, tuple) and (storage not in self.given_back or storage == ir.GRAD):
            return False
        return self.last_read[storage] <= index


def shows_transposed(expr: ir.Expr) -> bool:
    """Whether a transpose is anything but an argument of a product, where it stays in torch's hands."""
    is_product = isinstance(expr, ir.Apply) and expr.operator == "matmul"
    children = [node.arguments[0] if is_product and is_transpose(node) else node for node in ir.children(expr)]
    return is_transpose(expr) or any(shows_transposed(child) for child in children)


def is_transpose(expr: ir.Expr) -> TypeGuard[ir.Apply]:
    return isinstance(expr, ir.Apply) and expr.operator in ("transpose", "leading")
