"""Nodes made of other things: literals of numbers, what reads arguments, and the values of those that are left out."""

from __future__ import annotations

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import Formal, Want
from optforge.compiler.ir.types import SCALAR, Kind, Phase, Type
from optforge.dsl import ast
from optforge.dsl.source import Span


def constant_value(node: ast.Expression) -> float | None:
    """The value of a number, possibly negated."""
    if isinstance(node, ast.Number):
        return node.value
    if isinstance(node, ast.Unary) and node.operator == "-":
        value = constant_value(node.operand)
        return None if value is None else -value
    return None


def default_of(parameter: Formal, span: Span) -> ir.Expr:
    """The node of the value that an operator's parameter has where it is not given."""
    spelling = parameter.default or "0"
    match parameter.want:
        case Want.AXIS:
            return literal(spelling, spelling, Kind.AXIS, span)
        case Want.RULE:
            return literal(spelling, spelling, Kind.TEXT, span)
        case Want.TEXT:
            return literal(spelling.strip('"'), spelling, Kind.TEXT, span)
        case Want.MATRIX | Want.LAID:
            return ir.Input(spelling, ir.InputSource.STREAM, span=span)
        case Want.TRIPLES:
            return literal((), spelling, Kind.TRIPLES, span)
        case _:
            return number(spelling, span)


def read_argument(argument: ir.Hyper) -> ir.Input:
    """What reads an argument of an event: a number, or the matrix that a parameter is given."""
    if argument.shape is None:
        return ir.Input(argument.name, ir.InputSource.ARGUMENT)
    return ir.Input(argument.name, ir.InputSource.GIVEN, type=Type(Kind.NUMBER, argument.shape, Phase.STREAM))


def literal(value: ir.Value, spelling: str, kind: Kind, span: Span) -> ir.Literal:
    return ir.Literal(value, spelling, type=Type(kind, SCALAR, Phase.CONSTANT), span=span)


def number(spelling: str, span: Span) -> ir.Literal:
    return literal(float(spelling), spelling, Kind.NUMBER, span)


def joined(operator: str, tests: list[ir.Expr], span: Span) -> ir.Expr:
    """All tests in one, from left to right."""
    result = tests[0]
    for test in tests[1:]:
        result = ir.Apply(operator, (result, test), span=span)
    return result
