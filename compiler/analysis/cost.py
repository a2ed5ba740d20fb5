"""The arithmetic of a step, counted by the operator table: a polynomial in rows, cols and min(rows, cols).

Equations count as they are written: both branches of a choice, nothing shared, every hyperparameter at its default.
"""

from __future__ import annotations

from collections.abc import Iterable

from optforge.compiler.analysis.polynomials import Polynomial, monomial
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS


def cost_of(functions: Iterable[ir.Function], declaration: ir.Declaration) -> Polynomial:
    """The operations of functions, each equation once."""
    total = Polynomial()
    for function in functions:
        for value in ir.values(function):
            total += expression_cost(value, declaration)
    return total


def expression_cost(expr: ir.Expr, declaration: ir.Declaration) -> Polynomial:
    total = Polynomial()
    for node in ir.walk(expr):
        if isinstance(node, ir.Apply):
            operator = OPERATORS[node.operator]
            shapes = [value.type.shape for value in (*node.arguments[: operator.values], node)]
            settings = [setting_value(setting, declaration) for setting in node.arguments[operator.values :]]
            *given, result = [shape for shape in shapes if shape is not None]
            for factor, sizes in operator.cost(tuple(given), result, tuple(settings)):
                total += monomial(sizes, factor)
        elif isinstance(node, ir.Select) and node.type.shape is not None:
            total += monomial(node.type.shape)
    return total


def setting_value(expr: ir.Expr, declaration: ir.Declaration) -> ir.Value | None:
    """The value of a setting such as a number of iterations: a literal, or a hyper's default."""
    if isinstance(expr, ir.Literal):
        return expr.value
    if not isinstance(expr, ir.Input) or expr.source is not ir.InputSource.HYPER:
        return None
    return next(
        (hyper.default.value for hyper in declaration.hypers if hyper.name == expr.name and hyper.default), None
    )
