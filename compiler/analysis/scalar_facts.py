"""What is known of the scalars of a function: from the conditions of hypers, and where a choice has been made.

In: conditions that hold. Out: an :class:`Interval` for each scalar expression. Nothing is known of data.

A name is looked into anew in each choice that it is read in, so that names of names in choices of choices would take
for ever: of one function only so much is found out, and the rest is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.intervals import (
    ANYTHING,
    COUNT,
    INFINITY,
    TINY,
    Interval,
    above,
    below,
    exactly,
    hull,
    subtract,
)
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Kind

ROUNDS = 3  # in which conditions that speak of each other are read
WORK_LIMIT = 20_000  # expressions that are looked at for one function
DEPTH_LIMIT = 12  # choices in choices in choices
OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
MIRRORED = {"gt": "lt", "ge": "le"}


class Numbering:
    """The same number for equal expressions, found once for each node; and how much work is left."""

    def __init__(self) -> None:
        self.work = WORK_LIMIT
        self.by_node: dict[int, tuple[ir.Expr, int]] = {}  # by identity; the nodes are kept alive
        self.numbers: dict[tuple[object, ...], int] = {}

    def number(self, expr: ir.Expr) -> int:
        known = self.by_node.get(id(expr))
        if known is None:
            children = tuple(self.number(child) for child in ir.children(expr))
            own = expr.operator if isinstance(expr, ir.Apply) else type(expr) if children else expr
            number = self.numbers.setdefault((own, expr.type, *children), len(self.numbers))
            known = self.by_node[id(expr)] = (expr, number)
        return known[1]

    def has_left(self, amount: int = 1) -> bool:
        """Whether there is work left; this much of it is done now."""
        self.work -= amount
        return self.work > 0


class Facts:
    """Bounds of expressions, and pairs of them of which one is smaller than the other; never changed once made."""

    inputs: Mapping[ir.InputSource, Interval]  # what is known of inputs of which no condition speaks

    def __init__(self, equations: Mapping[EquationName, ir.Expr], given: tuple[ir.Expr, ...] = ()) -> None:
        self.equations = equations
        self.numbering = Numbering()
        self.number = self.numbering.number
        self.depth = 0
        self.bounds: dict[int, Interval] = {}
        self.smaller: dict[tuple[int, int], str] = {}
        self.known: dict[int, Interval] = {}
        for _ in range(ROUNDS):
            before = dict(self.bounds)
            for condition in given:
                self._note(condition, True)
            if self.bounds == before:
                break

    def assuming(self, condition: ir.Expr, truth: bool = True) -> Facts:
        """What is known where the condition has come out like that: all that is known here, and what it says."""
        if self.depth >= DEPTH_LIMIT or not self.numbering.has_left(1 + len(self.bounds)):
            return self
        found = copy(self)
        found.depth = self.depth + 1
        found.bounds, found.smaller, found.known = dict(self.bounds), dict(self.smaller), {}
        found._note(condition, truth)
        return found

    # What follows from conditions

    def _note(self, condition: ir.Expr, truth: bool) -> None:
        match condition:
            case ir.Ref(name=name):
                self._note(self.equations[name], truth)
            case ir.Apply(operator="not", arguments=(inner,)):
                self._note(inner, not truth)
            case ir.Apply(operator="and" | "or" as operator, arguments=parts) if truth is (operator == "and"):
                for part in parts:
                    self._note(part, truth)
            case ir.Apply(operator=operator, arguments=(left, right)) if operator in OPPOSITE:
                if left.type.kind is not Kind.NUMBER or not condition.type.is_scalar_phase:
                    return
                if truth:
                    self._compare(operator, left, right)
                elif operator in ("eq", "ne") or not (self.interval(left).has_nan or self.interval(right).has_nan):
                    self._compare(OPPOSITE[operator], left, right)

    def _compare(self, operator: str, left: ir.Expr, right: ir.Expr) -> None:
        if operator in MIRRORED:
            operator, left, right = MIRRORED[operator], right, left
        one, two = self.interval(left), self.interval(right)
        match operator:
            case "lt":
                self._narrow(left, Interval(high=below(two.high, one.is_whole), has_nan=False))
                self._narrow(right, Interval(low=above(one.low, two.is_whole), has_nan=False))
            case "le":
                self._narrow(left, Interval(high=two.high, has_nan=False))
                self._narrow(right, Interval(low=one.low, has_nan=False))
            case "eq":
                self._narrow(left, replace(two, has_nan=False))
                self._narrow(right, replace(one, has_nan=False))
            case "ne":
                self._exclude(left, one, two)
                self._exclude(right, two, one)
        self.smaller[self.number(left), self.number(right)] = operator
        self.known.clear()

    def _narrow(self, expr: ir.Expr, bound: Interval) -> None:
        if not isinstance(expr, ir.Literal):
            number = self.number(expr)
            self.bounds[number] = self.bounds.get(number, ANYTHING).narrowed(bound)

    def _exclude(self, expr: ir.Expr, own: Interval, other: Interval) -> None:
        """The expression is not the other, which matters where that is one number."""
        if other.low != other.high or other.has_nan:
            return
        value = other.low
        self._narrow(
            expr,
            Interval(
                above(value, own.is_whole) if own.low == value else -INFINITY,
                below(value, own.is_whole) if own.high == value else INFINITY,
                has_zero=value != 0,
            ),
        )

    # Intervals

    def interval(self, expr: ir.Expr) -> Interval:
        """What a scalar may be, as far as it is known."""
        number = self.number(expr)
        if number not in self.known:
            if not self.numbering.has_left():
                return ANYTHING
            found = self._found(expr)
            self.known[number] = found.narrowed(self.bounds[number]) if number in self.bounds else found
        return self.known[number]

    def _found(self, expr: ir.Expr) -> Interval:
        if expr.type.kind is not Kind.NUMBER or not expr.type.is_scalar_phase:
            return ANYTHING
        match expr:
            case ir.Literal(value=value):
                return exactly(float(value)) if isinstance(value, float | int) else ANYTHING
            case ir.Input(source=source):
                return self.inputs.get(source, ANYTHING)
            case ir.Ref(name=name):
                return self.interval(self.equations[name])
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                sides = [self.assuming(condition).interval(then), self.assuming(condition, False).interval(otherwise)]
                return hull(sides)
            case ir.Apply(operator="sub", arguments=(left, right)):
                return self._difference(left, right)
            case ir.Apply(operator=operator, arguments=arguments):
                return OPERATORS[operator].interval(*map(self.interval, arguments))
            case _:
                return ANYTHING

    def _difference(self, left: ir.Expr, right: ir.Expr) -> Interval:
        """A difference is 0 only where both are equal, and has the sign of the larger one."""
        found = subtract(self.interval(left), self.interval(right))
        least = 1.0 if found.is_whole else TINY
        one, two = self.number(left), self.number(right)
        match self.smaller.get((one, two)):
            case "lt":
                found = found.narrowed(Interval(high=-least))
            case "le":
                found = found.narrowed(Interval(high=0.0))
            case "ne":
                found = replace(found, has_zero=False)
        match self.smaller.get((two, one)):
            case "lt":
                found = found.narrowed(Interval(low=least))
            case "le":
                found = found.narrowed(Interval(low=0.0))
            case "ne":
                found = replace(found, has_zero=False)
        return found


# A runtime refuses hypers that are NaN; it counts from 1, and no tensor is empty.
INPUTS: Mapping[ir.InputSource, Interval] = {
    ir.InputSource.STEP: COUNT,
    ir.InputSource.DIMENSION: COUNT,
    ir.InputSource.HYPER: replace(ANYTHING, has_nan=False),
}


Facts.inputs = INPUTS


def facts_of(function: ir.Function) -> Facts:
    """What is known wherever the function runs."""
    equations = {equation.name: equation.value for equation in function.equations}
    return Facts(equations, function.given)
