"""The builder: reductions of the grammar in, nodes of the surface tree out.

One method for each rule (or alias) of ``grammar.lark``. Spans cover the whole construct, brackets that
belong to it included. Nothing is checked here but what the grammar cannot say: that keyword arguments come
last, and that an expression stays shallow enough for everything that walks it by recursion.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from optforge.dsl import ast, errors
from optforge.dsl.layout import Report
from optforge.dsl.lexer import Lexeme
from optforge.dsl.source import Source, Span

MAX_DEPTH = 100

Arguments: TypeAlias = tuple[tuple[ast.Expression, ...], tuple[tuple[ast.Identifier, ast.Expression], ...]]

EXPRESSIONS = frozenset(
    {
        "select",
        "pipe_call",
        "pipe_name",
        "binary",
        "unary",
        "compare",
        "member",
        "transpose",
        "number",
        "boolean",
        "string",
        "name",
        "sequence",
        "call",
    }
)


class TreeBuilder:
    """Builds the tree of one source; what is wrong goes to ``report``."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report

    levels = EXPRESSIONS

    def build(self, make: str, start: int, end: int, height: int, children: list[Any]) -> Any:
        span = Span(self.source, start, end)
        if height > MAX_DEPTH and make in EXPRESSIONS:
            if height == MAX_DEPTH + 1:
                # Its parents are deeper still; one message is enough, and a leaf stands in for all of it.
                self.report(errors.too_large("this expression is nested too deeply", MAX_DEPTH, span))
            return ast.Number("0", span=span)
        return getattr(self, make)(span, *children)

    def _identifier(self, lexeme: Lexeme) -> ast.Identifier:
        return ast.Identifier(lexeme.text, span=Span(self.source, lexeme.start, lexeme.end))

    def _text(self, lexeme: Lexeme) -> ast.Text:
        quotes = 3 if lexeme.text.startswith('"""') else 1
        value = lexeme.text[quotes:-quotes].replace("\r\n", "\n")
        return ast.Text(value, span=Span(self.source, lexeme.start, lexeme.end))

    # The file and what it defines

    def start(self, span: Span, doc: ast.Text | None, *items: ast.Item) -> ast.File:
        whole = Span(self.source, 0, len(self.source.text))
        return ast.File(doc, items, span=whole)

    def expression(self, span: Span, value: ast.Expression) -> ast.Expression:
        return value

    def docstring(self, span: Span, text: Lexeme) -> ast.Text:
        return self._text(text)

    def short_function(
        self, span: Span, name: Lexeme, parameters: tuple[ast.Parameter, ...] | None, result: ast.Expression
    ) -> ast.Function:
        return ast.Function(self._identifier(name), parameters or (), (), result, span=span)

    def block_function(
        self,
        span: Span,
        name: Lexeme,
        parameters: tuple[ast.Parameter, ...] | None,
        doc: ast.Text | None,
        body: tuple[ast.Binding | ast.Update, ...],
        result: ast.Expression,
    ) -> ast.Function:
        return ast.Function(self._identifier(name), parameters or (), body, result, doc, True, span=span)

    def body(self, span: Span, *statements: ast.Binding | ast.Update) -> tuple[ast.Binding | ast.Update, ...]:
        return statements

    def params(self, span: Span, *parameters: ast.Parameter) -> tuple[ast.Parameter, ...]:
        optional = False
        for parameter in parameters:
            if optional and parameter.default is None:
                self.report(errors.misplaced_argument("a parameter without a default", parameter.span))
            optional = optional or parameter.default is not None
        return parameters

    def param(self, span: Span, name: Lexeme, default: ast.Expression | None) -> ast.Parameter:
        return ast.Parameter(self._identifier(name), default, span=span)

    def optimizer(
        self, span: Span, name: Lexeme, base: Lexeme | None, doc: ast.Text | None, *members: ast.OptimizerMember
    ) -> ast.Optimizer:
        return ast.Optimizer(self._identifier(name), base and self._identifier(base), members, doc, span=span)

    def schedule(
        self, span: Span, name: Lexeme, doc: ast.Text | None, *members: ast.Hyper | ast.Statement
    ) -> ast.Schedule:
        return ast.Schedule(self._identifier(name), members, doc, span=span)

    def penalty(
        self, span: Span, name: Lexeme, doc: ast.Text | None, *members: ast.Hyper | ast.Rule | ast.Delegate
    ) -> ast.Penalty:
        return ast.Penalty(self._identifier(name), members, doc, span=span)

    def hyper(
        self,
        span: Span,
        name: Lexeme,
        default: ast.Expression | None,
        before: ast.Expression | None,
        condition: ast.Expression | None,
        doc: Lexeme | None,
    ) -> ast.Hyper:
        return ast.Hyper(self._identifier(name), default, condition, doc and self._text(doc), before, span=span)

    def delegate(
        self, span: Span, roles: tuple[ast.Identifier, ...], optimizer: Lexeme, arguments: Arguments | None
    ) -> ast.Delegate:
        positional, keywords = arguments or ((), ())
        return ast.Delegate(roles, self._identifier(optimizer), positional, keywords, span=span)

    def block_rule(
        self, span: Span, roles: tuple[ast.Identifier, ...], doc: ast.Text | None, *statements: ast.Statement
    ) -> ast.Rule:
        return ast.Rule(roles, statements, doc, span=span)

    def roles(self, span: Span, *names: Lexeme) -> tuple[ast.Identifier, ...]:
        return tuple(self._identifier(name) for name in names)

    def event(
        self,
        span: Span,
        name: Lexeme,
        parameters: tuple[ast.Parameter, ...] | None,
        doc: ast.Text | None,
        *statements: ast.Statement,
    ) -> ast.Event:
        return ast.Event(self._identifier(name), parameters or (), statements, doc, span=span)

    def claim(self, span: Span, promise: ast.Expression) -> ast.Claim:
        return ast.Claim(promise, span=span)

    def was(self, span: Span, target: Lexeme, value: ast.Expression) -> ast.Was:
        return ast.Was(self._identifier(target), value, span=span)

    def binding(self, span: Span, target: Lexeme, value: ast.Expression) -> ast.Binding:
        return ast.Binding(self._identifier(target), value, span=span)

    def update(self, span: Span, target: Lexeme, value: ast.Expression) -> ast.Update:
        return ast.Update(self._identifier(target), value, span=span)

    # Expressions

    def select(
        self, span: Span, then: ast.Expression, condition: ast.Expression, otherwise: ast.Expression
    ) -> ast.Select:
        return ast.Select(condition, then, otherwise, span=span)

    def pipe_call(self, span: Span, value: ast.Expression, call: ast.Call) -> ast.Pipe:
        return ast.Pipe(value, call, span=span)

    def pipe_name(self, span: Span, value: ast.Expression, name: Lexeme) -> ast.Pipe:
        function = self._identifier(name)
        return ast.Pipe(value, ast.Call(function, (), span=function.span), bare=True, span=span)

    def binary(self, span: Span, left: ast.Expression, operator: Lexeme, right: ast.Expression) -> ast.Binary:
        return ast.Binary(operator.text, left, right, span=span)

    def unary(self, span: Span, operator: Lexeme, operand: ast.Expression) -> ast.Unary:
        return ast.Unary(operator.text, operand, span=span)

    def transpose(self, span: Span, operand: ast.Expression, quote: Lexeme) -> ast.Unary:
        return ast.Unary(quote.text, operand, span=span)

    def compare(self, span: Span, first: ast.Expression, *rest: Any) -> ast.Comparison:
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return ast.Comparison(first, tuple((operator.text, operand) for operator, operand in pairs), span=span)

    def member(self, span: Span, item: ast.Expression, choices: ast.Tuple) -> ast.Member:
        return ast.Member(item, choices, span=span)

    def number(self, span: Span, lexeme: Lexeme) -> ast.Number:
        return ast.Number(lexeme.text, span=span)

    def boolean(self, span: Span, lexeme: Lexeme) -> ast.Boolean:
        return ast.Boolean(lexeme.kind == "TRUE", span=span)

    def string(self, span: Span, lexeme: Lexeme) -> ast.Text:
        return self._text(lexeme)

    def name(self, span: Span, lexeme: Lexeme) -> ast.Name:
        return ast.Name(lexeme.text, span=span)

    def sequence(self, span: Span, *items: ast.Expression) -> ast.Tuple:
        return ast.Tuple(items, span=span)

    def call(self, span: Span, function: Lexeme, arguments: Arguments | None) -> ast.Call:
        positional, keywords = arguments or ((), ())
        return ast.Call(self._identifier(function), positional, keywords, span=span)

    def args(self, span: Span, *arguments: Any) -> Arguments:
        positional: list[ast.Expression] = []
        keywords: list[tuple[ast.Identifier, ast.Expression]] = []
        for argument in arguments:
            if isinstance(argument, _Keyword):
                keywords.append(argument)
                continue
            if keywords:
                self.report(errors.misplaced_argument("a positional argument", argument.span))
            positional.append(argument)
        return tuple(positional), tuple(keywords)

    def keyword(self, span: Span, name: Lexeme, value: ast.Expression) -> _Keyword:
        return _Keyword((self._identifier(name), value))


class _Keyword(tuple[ast.Identifier, ast.Expression]):
    """``name=value`` among the arguments of a call."""

    __slots__ = ()
