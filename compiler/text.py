"""IR expressions in the spec language again, for messages and dumps."""

from __future__ import annotations

from typing import assert_never

from optforge.compiler import ir
from optforge.compiler.ops import OPERATORS
from optforge.compiler.types import Kind
from optforge.dsl import ast
from optforge.dsl.printer import print_expression

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def expression_text(expr: ir.Expr) -> str:
    """The expression as a spec would write it."""
    return print_expression(surface(expr))


def surface(expr: ir.Expr) -> ast.Expression:
    """The surface tree that means this expression; memories are ``memory("name")``."""
    match expr:
        case ir.Literal():
            return surface_literal(expr)
        case ir.Input(name=name, source=ir.Source.MEMORY):
            return ast.Call(ast.Identifier("memory"), (ast.Text(name),))
        case ir.Input(name=name):
            return ast.Name(name)
        case ir.Ref(name=name):
            return ast.Name(name) if name.isidentifier() else ast.Call(ast.Identifier("value"), (ast.Text(name),))
        case ir.Select(condition=condition, then=then, otherwise=otherwise):
            return ast.Select(surface(condition), surface(then), surface(otherwise))
        case ir.Apply():
            return surface_apply(expr)
        case ir.Prev(stream=stream, initial=initial):
            return ast.Call(ast.Identifier("prev"), (surface(stream), surface(initial)))
        case _:
            assert_never(expr)


def surface_literal(node: ir.Literal) -> ast.Expression:
    match node.value:
        case bool():
            return ast.Boolean(node.value)
        case str():
            return ast.Name(node.value) if node.type.kind is Kind.AXIS else ast.Text(node.value)
        case tuple():
            return ast.Tuple(tuple(ast.Tuple(tuple(number(x) for x in triple)) for triple in node.value))
        case _:
            if node.spelling.startswith("-"):
                return ast.Unary("-", ast.Number(node.spelling[1:]))
            return ast.Name("pi") if node.spelling == "pi" else ast.Number(node.spelling)


def number(value: float) -> ast.Expression:
    return ast.Unary("-", ast.Number(repr(-value))) if value < 0 else ast.Number(repr(value))


def surface_apply(node: ir.Apply) -> ast.Expression:
    operator = OPERATORS[node.operator]
    if node.operator in COMPARISONS:
        left, right = (surface(argument) for argument in node.arguments)
        return ast.Comparison(left, ((operator.symbol, right),))
    if node.operator == "and":
        return chained(node)
    if operator.symbol and len(node.arguments) == 2:
        left, right = (surface(argument) for argument in node.arguments)
        return ast.Binary(operator.symbol, left, right)
    if operator.symbol:
        return ast.Unary(operator.symbol, surface(node.arguments[0]))
    return ast.Call(ast.Identifier(node.operator), *call_arguments(node))


def chained(node: ir.Apply) -> ast.Expression:
    """``a <= b and b < c`` as ``a <= b < c``, which is how it was written."""
    left, right = (surface(argument) for argument in node.arguments)
    if isinstance(left, ast.Comparison) and isinstance(right, ast.Comparison) and left.rest[-1][1] == right.first:
        return ast.Comparison(left.first, left.rest + right.rest)
    return ast.Binary("and", left, right)


def call_arguments(
    node: ir.Apply,
) -> tuple[tuple[ast.Expression, ...], tuple[tuple[ast.Identifier, ast.Expression], ...]]:
    """Required arguments by position, the others by keyword where they differ from their default."""
    positional: list[ast.Expression] = []
    keywords: list[tuple[ast.Identifier, ast.Expression]] = []
    for parameter, argument in zip(OPERATORS[node.operator].parameters, node.arguments, strict=True):
        if parameter.default is None:
            positional.append(surface(argument))
        elif not (isinstance(argument, ir.Literal) and argument.spelling == parameter.default):
            keywords.append((ast.Identifier(parameter.name), surface(argument)))
    return tuple(positional), tuple(keywords)
