"""Values of constant expressions, computed exactly as the generated Python computes them."""

from __future__ import annotations

from collections.abc import Mapping

from optforge.compiler import ir
from optforge.compiler.ops import OPERATORS


class ArithmeticProblem(Exception):
    """A constant expression without a value: division by zero, overflow, root of a negative number."""

    def __init__(self, expr: ir.Expr, reason: str) -> None:
        self.expr, self.reason = expr, reason
        super().__init__(reason)


def evaluate_constant(expr: ir.Expr, hypers: Mapping[str, ir.Value]) -> ir.Value | None:
    """The value, or None where it depends on more than these ``hypers``; raises :class:`ArithmeticProblem`."""
    match expr:
        case ir.Literal(value=value):
            return value
        case ir.Input(name=name, source=ir.Source.HYPER):
            return hypers.get(name)
        case ir.Select(condition=condition, then=then, otherwise=otherwise):
            choice = evaluate_constant(condition, hypers)
            return None if choice is None else evaluate_constant(then if choice else otherwise, hypers)
        case ir.Apply(operator=operator, arguments=arguments):
            scalar = OPERATORS[operator].scalar
            values = [evaluate_constant(argument, hypers) for argument in arguments]
            if scalar is None or any(value is None for value in values):
                return None
            try:
                return compute(scalar, values, expr)
            except TypeError:  # values of the wrong kind, which the type checker reports
                return None
        case _:
            return None


def compute(scalar, values, expr: ir.Expr) -> ir.Value:  # type: ignore[no-untyped-def]
    """One operator on Python values."""
    try:
        result: ir.Value = scalar(*values)
    except ZeroDivisionError:
        raise ArithmeticProblem(expr, "divides by zero") from None
    except OverflowError:
        raise ArithmeticProblem(expr, "is too large for a number") from None
    except ValueError:
        raise ArithmeticProblem(expr, "has no real value") from None
    return result
