"""Expressions as text: a tree in, on one line or broken over several out.

Parentheses stand exactly where the grammar needs them, and around what is broken over lines. The
text depends on the tree alone, so that printing what was printed changes nothing.
"""

from __future__ import annotations

from typing import assert_never

from optforge.dsl import ast
from optforge.dsl.precedence import COMPARED, INFIX, PREFIX, Precedence, precedence_of

WIDTH = 100
INDENT = "    "

Piece = tuple[str, ast.Expression, Precedence]


def print_expression(expression: ast.Expression) -> str:
    """The expression on one line."""
    return _print_flat(expression, Precedence.SELECT)


def _print_flat(expression: ast.Expression, least: Precedence) -> str:
    """The expression where the grammar wants at least this level."""
    text = _print_bare(expression)
    return text if precedence_of(expression) >= least else f"({text})"


def _print_bare(expression: ast.Expression) -> str:
    match expression:
        case ast.Number(spelling=spelling):
            return spelling
        case ast.Boolean(value=value):
            return "true" if value else "false"
        case ast.Text():
            return print_text(expression)
        case ast.Name(name=name):
            return name
        case ast.Super(name=name):
            return f"super.{name.name}"
        case ast.Unary(operator="'", operand=operand):
            return _print_flat(operand, Precedence.POSTFIX) + "'"
        case ast.Unary(operator=operator, operand=operand):
            level, sign = PREFIX[operator]
            return sign + _print_flat(operand, level)
        case ast.Binary(operator=operator, left=left, right=right):
            infix = INFIX[operator]
            return _print_flat(left, infix.left) + infix.text + _print_flat(right, infix.right)
        case ast.Tuple(items=items):
            return "(" + ", ".join(map(print_expression, items)) + ")"
        case ast.Call(function=function):
            return f"{function.name}({print_arguments(expression.arguments, expression.keywords)})"
        case ast.Comparison() | ast.Member() | ast.Select() | ast.Pipe():
            return " ".join(lead + _print_flat(part, least) for lead, part, least in _split_chain(expression))
        case _:
            assert_never(expression)


def print_text(text: ast.Text) -> str:
    """A string; three quotes only where one is not enough."""
    quote = '"""' if '"' in text.value or "\n" in text.value else '"'
    return quote + text.value + quote


def print_arguments(
    positional: tuple[ast.Expression, ...], keywords: tuple[tuple[ast.Identifier, ast.Expression], ...]
) -> str:
    return ", ".join([lead + print_expression(value) for lead, value in list_arguments(positional, keywords)])


def list_arguments(
    positional: tuple[ast.Expression, ...], keywords: tuple[tuple[ast.Identifier, ast.Expression], ...]
) -> list[tuple[str, ast.Expression]]:
    """Every argument with what stands before its value."""
    return [("", value) for value in positional] + [(f"{name.name}=", value) for name, value in keywords]


def _split_chain(expression: ast.Expression) -> list[Piece]:
    """The parts of a chain of operators of one level, each with the operator (or word) before it."""
    match expression:
        case ast.Select(condition=condition, then=then, otherwise=otherwise):
            rest = (
                _split_chain(otherwise) if isinstance(otherwise, ast.Select) else [("", otherwise, Precedence.SELECT)]
            )
            lead, first, least = rest[0]
            chain = [("else " + lead, first, least), *rest[1:]]
            return [("", then, Precedence.PIPE), ("if ", condition, Precedence.OR), *chain]
        case ast.Pipe(value=value, call=call, bare=bare, repetition=repetition):
            before = _split_chain(value) if isinstance(value, ast.Pipe) else [("", value, Precedence.PIPE)]
            target: ast.Expression = ast.Name(call.function.name) if bare else call
            return [*before, ("|> ", target, Precedence.ATOM), *_split_repetition(repetition)]
        case ast.Comparison(first=first, rest=pairs):
            return [("", first, COMPARED), *((f"{operator} ", operand, COMPARED) for operator, operand in pairs)]
        case ast.Member(item=item, choices=choices):
            return [("", item, COMPARED), ("in ", choices, Precedence.ATOM)]
        case ast.Binary(operator=operator, left=left, right=right) if operator != "^":
            infix = INFIX[operator]
            chained = isinstance(left, ast.Binary) and precedence_of(left) == infix.level
            before = _split_chain(left) if chained else [("", left, infix.left)]
            return [*before, (infix.text.lstrip(), right, infix.right)]
        case _:
            return []


def _split_repetition(repetition: ast.Repetition | None) -> list[Piece]:
    """How often a function of a chain is applied."""
    if repetition is None:
        return []
    lead = "times "
    if repetition.counter is not None and repetition.first is not None:
        lead = f"for {repetition.counter.name} in {_print_flat(repetition.first, Precedence.SUM)}.."
    return [(lead, repetition.last, Precedence.SUM)]


def lay_out(
    lead: str, expression: ast.Expression, tail: str, depth: int, least: Precedence = Precedence.SELECT
) -> list[str]:
    """The lines of ``lead expression tail`` at an indentation; broken inside parentheses if one line is too long."""
    pad = INDENT * depth
    flat = pad + lead + _print_flat(expression, least) + tail
    if len(flat) <= WIDTH:
        return [flat]
    match expression:
        case ast.Call(function=function) if expression.arguments or expression.keywords:
            arguments = list_arguments(expression.arguments, expression.keywords)
            return [f"{pad}{lead}{function.name}(", *_lay_out_items(arguments, depth), f"{pad}){tail}"]
        case ast.Tuple(items=items):
            return [f"{pad}{lead}(", *_lay_out_items([("", item) for item in items], depth), f"{pad}){tail}"]
        case ast.Unary(operator="'", operand=operand):
            return lay_out(lead, operand, f"'{tail}", depth, Precedence.POSTFIX)
        case ast.Unary(operator=operator, operand=operand) if precedence_of(expression) >= least:
            level, sign = PREFIX[operator]
            return lay_out(lead + sign, operand, tail, depth, level)
        case ast.Binary(operator="^", left=left, right=right) if precedence_of(expression) >= least:
            return lay_out(lead, left, f"^{_print_flat(right, Precedence.NEGATION)}{tail}", depth, Precedence.POSTFIX)
    if precedence_of(expression) == Precedence.ATOM:
        return [flat]
    pieces = _split_chain(expression) or [("", expression, Precedence.SELECT)]
    lines = [line for start, part, level in pieces for line in lay_out(start, part, "", depth + 1, level)]
    return [f"{pad}{lead}(", *lines, f"{pad}){tail}"]


def _lay_out_items(items: list[tuple[str, ast.Expression]], depth: int) -> list[str]:
    """One item to a line, each with a comma."""
    return [line for lead, value in items for line in lay_out(lead, value, ",", depth + 1)]
