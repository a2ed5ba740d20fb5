"""By how much a claim holds: a condition and the values of a step in, a relative margin for each element out.

A margin is the difference of the two sides divided by the sizes of the terms that they are made of: positive where the
condition holds, negative where it does not, NaN where a side is not a finite number. `or` is the better of two margins,
`and` the worse, `not` the opposite. Sizes follow the equations: a difference is as large as both of its parts
together, so the rounding of a value that is left over from a cancellation counts as what it is.

Where there is no rounding, `<` and `<=` differ, and equal sides have the margin -1 or 1: where both are made of zeros
only, and where both are known without data, such as `t` and hyperparameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.oracle.interpreter import Evaluation, as_array

# The margin of equal sides where nothing is rounded.
TIES: dict[str, float] = {"lt": -1.0, "gt": -1.0, "le": 1.0, "ge": 1.0}
COMPARISONS = (*TIES, "eq", "ne")


class Margins:
    """Margins of conditions at one step; ``slack`` is how far rounding moves the sides of a comparison apart."""

    def __init__(self, evaluation: Evaluation, slack: Mapping[ir.Expr, Any] = MappingProxyType({})) -> None:
        self.evaluation = evaluation
        self.slack = slack
        self.sizes: dict[EquationName, Any] = {}

    def margin(self, promise: ir.Expr, wanted: bool = True) -> Any:
        """The margin of each element of a condition that is wanted to hold, or wanted not to."""
        match promise:
            case ir.Apply(operator="not", arguments=(inner,)):
                return self.margin(inner, not wanted)
            case ir.Apply(operator=("or" | "and") as name, arguments=(left, right)):
                sides = self.margin(left, wanted), self.margin(right, wanted)
                return better(*sides) if (name == "or") is wanted else -better(-sides[0], -sides[1])
            case ir.Apply(operator=name, arguments=(left, right)) if name in COMPARISONS:
                found, scale = self.compared(name, left, right)
                slack = self.slack.get(promise, 0.0) / np.where(scale == 0, np.inf, scale)
                return (found if wanted else -found) + slack
            case _:
                return np.where(as_array(self.evaluation.value(promise)), *((1.0, -1.0) if wanted else (-1.0, 1.0)))

    def gap(self, comparison: ir.Apply) -> Any:
        """How far apart the sides of a comparison of numbers are; 0 for flags and strings."""
        x, y = (as_array(self.evaluation.value(side)) for side in comparison.arguments)
        return x - y if is_number(x) and is_number(y) else 0.0

    def compared(self, name: str, left: ir.Expr, right: ir.Expr) -> tuple[Any, Any]:
        """The margin of a comparison, and the size of the terms that it is relative to."""
        x, y = (as_array(self.evaluation.value(side)) for side in (left, right))
        if not is_number(x) or not is_number(y):
            return np.where((x == y) == (name == "eq"), 1.0, -1.0), np.zeros((1, 1))
        scale = self.size(left) + self.size(right)
        unit = np.where(scale == 0, 1.0, scale)
        if name in ("eq", "ne"):
            equal = np.where(x == y, 1.0, -abs(x - y) / unit)
            return finite(x, y, equal if name == "eq" else -equal), scale
        is_exact = left.type.is_scalar_phase and right.type.is_scalar_phase
        is_tie = (x == y) if is_exact else (scale == 0)
        distance = (y - x) if name in ("lt", "le") else (x - y)
        return finite(x, y, np.where(is_tie, TIES[name], distance / unit)), scale

    # Sizes of terms

    def size(self, expr: ir.Expr) -> Any:
        """How large the numbers are that an expression is made of, rounded with each operation."""
        match expr:
            case ir.Ref(name=name):
                if name not in self.sizes:
                    self.sizes[name] = self.size(self.evaluation.equations[name])
                return self.sizes[name]
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                holds = self.evaluation.value(condition)
                if condition.type.is_scalar_phase:
                    return self.size(then if holds else otherwise)
                return np.where(holds, self.size(then), self.size(otherwise))
            case ir.Apply(operator=name, arguments=arguments):
                return self.operator_size(expr, name, arguments)
            case _:
                return self.magnitude(expr)

    def magnitude(self, expr: ir.Expr) -> Any:
        value = as_array(self.evaluation.value(expr))
        return abs(value) if is_number(value) else np.ones((1, 1))

    def operator_size(self, expr: ir.Expr, name: str, arguments: tuple[ir.Expr, ...]) -> Any:
        match name, arguments:
            case (("add" | "sub"), (x, y)):
                return self.size(x) + self.size(y)
            case (("neg" | "abs" | "fill"), (x,)):
                return self.size(x) + 0 * self.magnitude(expr)
            case "mul", (x, y):
                return self.size(x) * self.size(y)
            case "div", (x, y):
                return self.size(x) / abs(as_array(self.evaluation.value(y)))
            case "matmul", (x, y):
                return self.size(x) @ self.size(y)
            case "transpose", (x,):
                return self.size(x).T
            case (("sum" | "mean" | "norm"), (x, axis)):
                return self.reduced(name, self.size(x), axis)
            case "dot", (x, y, axis):
                return self.reduced("sum", self.size(x) * self.size(y), axis)
            case (("pow" | "sqrt"), (x, *_)):
                return self.amplified(expr, x)
            case (("min" | "max"), (x, y)):
                chosen = as_array(self.evaluation.value(x)) == as_array(self.evaluation.value(expr))
                return np.where(chosen, self.size(x), self.size(y))
            case _:
                return self.magnitude(expr)

    def reduced(self, name: str, sizes: Any, axis: ir.Expr) -> Any:
        along = {"all": (0, 1), "row": 1, "col": 0}[self.evaluation.value(axis)]
        if name == "norm":
            return np.sqrt((sizes * sizes).sum(along, keepdims=True))
        return sizes.mean(along, keepdims=True) if name == "mean" else sizes.sum(along, keepdims=True)

    def amplified(self, expr: ir.Expr, argument: ir.Expr) -> Any:
        """The size of a power: its relative rounding is that of the base."""
        value, base = self.magnitude(expr), self.magnitude(argument)
        return value * np.where(base > 0, self.size(argument) / np.where(base > 0, base, 1.0), 1.0)


def finite(x: Any, y: Any, margin: Any) -> Any:
    """The margin where both sides are numbers, and NaN elsewhere."""
    return np.where(np.isfinite(x) & np.isfinite(y) & np.isfinite(margin), margin, np.nan)


def is_number(values: Any) -> bool:
    return bool(np.issubdtype(values.dtype, np.number))


def better(left: Any, right: Any) -> Any:
    """The better margin; one that is enough decides, also beside a NaN."""
    left, right = np.broadcast_arrays(left, right)
    unknown = np.isnan(left) | np.isnan(right)
    return np.where(unknown & ~(np.fmax(left, right) > 0), np.nan, np.fmax(left, right))


def comparisons(promise: ir.Expr) -> Iterator[ir.Apply]:
    """The comparisons that a condition is made of."""
    if isinstance(promise, ir.Apply) and promise.operator in ("and", "or", "not"):
        for argument in promise.arguments:
            yield from comparisons(argument)
    elif isinstance(promise, ir.Apply) and promise.operator in COMPARISONS:
        yield promise
