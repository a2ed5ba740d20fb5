"""The builder: Lark's tree of a text in, nodes of the surface tree out.

One method for each rule (or alias) of ``grammar.lark``. Spans cover the whole construct, brackets that
belong to it included. Nothing is checked here but what the grammar cannot say: that keyword arguments come
last, and that an expression stays shallow enough for everything that walks it by recursion.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from lark import Token, Tree

from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.grammar import end_of, start_of
from optforge.dsl.source import NOWHERE, Source, Span

MAX_DEPTH = 100
SIDES = ("rows", "cols", "1")  # of the shapes that arguments of events have

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
        "inherited",
        "sequence",
        "call",
    }
)


class TreeBuilder:
    """Builds the tree of one source; what is wrong is collected in ``problems``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Diagnostic] = []

    def build(self, root: Tree[Token]) -> Any:
        """What a tree of Lark's stands for, found without recursion, however deep it is."""
        values: dict[int, Any] = {}
        heights: dict[int, int] = {}
        for tree in reversed(list(root.iter_subtrees_topdown())):
            below = max([heights[id(part)] for part in tree.children if isinstance(part, Tree)], default=0)
            heights[id(tree)] = height = below + (tree.data in EXPRESSIONS)
            span = NOWHERE if tree.meta.empty else Span(self.source, tree.meta.start_pos, tree.meta.end_pos)
            if height > MAX_DEPTH and tree.data in EXPRESSIONS:
                values[id(tree)] = self._cut_off(height, span)
            else:
                children = [values[id(part)] if isinstance(part, Tree) else part for part in tree.children]
                values[id(tree)] = getattr(self, tree.data)(span, *children)
        return values[id(root)]

    def _cut_off(self, height: int, span: Span) -> ast.Number:
        """A leaf in place of an expression that is too deep; so are all around it, and one message is enough."""
        if height == MAX_DEPTH + 1:
            self.problems.append(errors.too_large("this expression is nested too deeply", MAX_DEPTH, span))
        return ast.Number("0", span=span)

    def _span(self, token: Token) -> Span:
        return Span(self.source, start_of(token), end_of(token))

    def _identifier(self, token: Token) -> ast.Identifier:
        return ast.Identifier(token.value, span=self._span(token))

    def _text(self, token: Token) -> ast.Text:
        quotes = 3 if token.value.startswith('"""') else 1
        value = token.value[quotes:-quotes].replace("\r\n", "\n")
        return ast.Text(value, span=self._span(token))

    # The file and what it defines

    def start(self, span: Span, doc: ast.Text | None, *items: ast.Item) -> ast.File:
        whole = Span(self.source, 0, len(self.source.text))
        return ast.File(doc, items, span=whole)

    def expression(self, span: Span, value: ast.Expression) -> ast.Expression:
        return value

    def doc(self, span: Span, text: Token | None) -> ast.Text | None:
        return None if text is None else self._text(text)

    def short_function(
        self, span: Span, name: Token, parameters: tuple[ast.Parameter, ...], result: ast.Expression
    ) -> ast.Function:
        return ast.Function(self._identifier(name), self._require_shapeless(parameters), (), result, span=span)

    def block_function(
        self,
        span: Span,
        name: Token,
        parameters: tuple[ast.Parameter, ...],
        doc: ast.Text | None,
        *lines: Any,
    ) -> ast.Function:
        *body, result = lines
        taken = self._require_shapeless(parameters)
        return ast.Function(self._identifier(name), taken, tuple(body), result, doc, True, span=span)

    def params(self, span: Span, *parameters: ast.Parameter) -> tuple[ast.Parameter, ...]:
        optional = False
        for parameter in parameters:
            if optional and parameter.default is None:
                self.problems.append(errors.misplaced_argument("a parameter without a default", parameter.span))
            optional = optional or parameter.default is not None
        return parameters

    def shape(self, span: Span, first: Token, by: Token, second: Token) -> tuple[ast.Identifier, ast.Identifier]:
        sides = self._identifier(first), self._identifier(second)
        wrong = [side for side in sides if side.name not in SIDES]
        if by.value != "x" or wrong:
            where = wrong[0].span if wrong else self._span(by)
            self.problems.append(errors.bad_argument_shape(f"`{where.text}` is no part of a shape", where))
        return sides

    def param(
        self,
        span: Span,
        name: Token,
        shape: tuple[ast.Identifier, ast.Identifier] | None,
        default: ast.Expression | None,
    ) -> ast.Parameter:
        if shape and default is not None:
            problem = "what each parameter has its own value of has no default"
            self.problems.append(errors.bad_argument_shape(problem, default.span))
        return ast.Parameter(self._identifier(name), default, shape, span=span)

    def _require_shapeless(self, parameters: tuple[ast.Parameter, ...]) -> tuple[ast.Parameter, ...]:
        """The parameters of a function, which take values of any shape."""
        for parameter in parameters:
            if parameter.shape:
                first, second = parameter.shape
                problem = "a function takes values of any shape"
                self.problems.append(errors.bad_argument_shape(problem, first.span.to(second.span)))
        return parameters

    def taken(self, span: Span, file: Token, *names: Token) -> ast.Taken:
        return ast.Taken(self._identifier(file), tuple(self._identifier(name) for name in names), span=span)

    def defined_optimizer(
        self, span: Span, name: Token, base: Token | None, doc: ast.Text | None, *members: ast.OptimizerMember
    ) -> ast.Optimizer:
        return ast.Optimizer(
            self._identifier(name), None if base is None else self._identifier(base), members, doc, span=span
        )

    def composed_optimizer(
        self,
        span: Span,
        name: Token,
        composition: ast.Expression,
        doc: ast.Text | None = None,
        *members: ast.OptimizerMember,
    ) -> ast.Optimizer:
        return ast.Optimizer(self._identifier(name), None, members, doc, composition, span=span)

    def wrapper(self, span: Span, name: Token, doc: ast.Text | None, *members: ast.OptimizerMember) -> ast.Wrapper:
        return ast.Wrapper(self._identifier(name), members, doc, span=span)

    def schedule(
        self, span: Span, name: Token, doc: ast.Text | None, *members: ast.Hyper | ast.Statement
    ) -> ast.Schedule:
        return ast.Schedule(self._identifier(name), members, doc, span=span)

    def penalty(
        self, span: Span, name: Token, doc: ast.Text | None, *members: ast.Hyper | ast.Rule | ast.Delegate
    ) -> ast.Penalty:
        return ast.Penalty(self._identifier(name), members, doc, span=span)

    def hyper(
        self,
        span: Span,
        name: Token,
        default: ast.Expression | None,
        before: ast.Expression | None,
        condition: ast.Expression | None,
        doc: Token | None,
    ) -> ast.Hyper:
        return ast.Hyper(self._identifier(name), default, condition, self.doc(span, doc), before, span=span)

    def delegate(
        self, span: Span, roles: tuple[ast.Identifier, ...], optimizer: Token, arguments: Arguments
    ) -> ast.Delegate:
        positional, keywords = arguments
        return ast.Delegate(roles, self._identifier(optimizer), positional, keywords, span=span)

    def block_rule(
        self,
        span: Span,
        roles: tuple[ast.Identifier, ...],
        orientation: Token | None,
        doc: ast.Text | None,
        *statements: ast.Statement,
    ) -> ast.Rule:
        seen = None if orientation is None else self._identifier(orientation)
        return ast.Rule(roles, statements, doc, seen, span=span)

    def roles(self, span: Span, *names: Token) -> tuple[ast.Identifier, ...]:
        return tuple(self._identifier(name) for name in names)

    def event(
        self,
        span: Span,
        name: Token,
        parameters: tuple[ast.Parameter, ...],
        doc: ast.Text | None,
        *statements: ast.Statement,
    ) -> ast.Event:
        return ast.Event(self._identifier(name), parameters, statements, doc, span=span)

    def claim(self, span: Span, promise: ast.Expression) -> ast.Claim:
        return ast.Claim(promise, span=span)

    def was(self, span: Span, target: Token, value: ast.Expression) -> ast.Was:
        return ast.Was(self._identifier(target), value, span=span)

    def dimension(self, span: Span, name: Token, size: ast.Expression) -> ast.Dimension:
        return ast.Dimension(self._identifier(name), size, span=span)

    def binding(self, span: Span, target: Token, value: ast.Expression) -> ast.Binding:
        return ast.Binding(self._identifier(target), value, span=span)

    def shared(self, span: Span, target: Token, value: ast.Expression) -> ast.Binding:
        return ast.Binding(self._identifier(target), value, shared=True, span=span)

    def update(self, span: Span, target: Token, value: ast.Expression) -> ast.Update:
        return ast.Update(self._identifier(target), value, span=span)

    # Expressions

    def select(
        self, span: Span, then: ast.Expression, condition: ast.Expression, otherwise: ast.Expression
    ) -> ast.Select:
        return ast.Select(condition, then, otherwise, span=span)

    def pipe_call(
        self, span: Span, value: ast.Expression, call: ast.Call, repetition: ast.Repetition | None = None
    ) -> ast.Pipe:
        return ast.Pipe(value, call, repetition=repetition, span=span)

    def pipe_name(
        self, span: Span, value: ast.Expression, name: Token, repetition: ast.Repetition | None = None
    ) -> ast.Pipe:
        function = self._identifier(name)
        return ast.Pipe(value, ast.Call(function, (), span=function.span), True, repetition, span=span)

    def repetition(self, span: Span, *parts: Any) -> ast.Repetition:
        *counted, last = parts
        if not counted:
            return ast.Repetition(last, span=span)
        counter, first = counted
        return ast.Repetition(last, self._identifier(counter), first, span=span)

    def binary(self, span: Span, left: ast.Expression, operator: Token, right: ast.Expression) -> ast.Binary:
        return ast.Binary(operator.value, left, right, span=span)

    def unary(self, span: Span, operator: Token, operand: ast.Expression) -> ast.Unary:
        return ast.Unary(operator.value, operand, span=span)

    def transpose(self, span: Span, operand: ast.Expression, quote: Token) -> ast.Unary:
        return ast.Unary(quote.value, operand, span=span)

    def compare(self, span: Span, first: ast.Expression, *rest: Any) -> ast.Comparison:
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return ast.Comparison(first, tuple((operator.value, operand) for operator, operand in pairs), span=span)

    def member(self, span: Span, item: ast.Expression, choices: ast.Tuple) -> ast.Member:
        return ast.Member(item, choices, span=span)

    def number(self, span: Span, token: Token) -> ast.Number:
        return ast.Number(token.value, span=span)

    def boolean(self, span: Span, token: Token) -> ast.Boolean:
        return ast.Boolean(token.type == "TRUE", span=span)

    def string(self, span: Span, token: Token) -> ast.Text:
        return self._text(token)

    def name(self, span: Span, token: Token) -> ast.Name:
        return ast.Name(token.value, span=span)

    def inherited(self, span: Span, token: Token) -> ast.Super:
        name = token.value.removeprefix("super.")
        return ast.Super(ast.Identifier(name, span=Span(self.source, span.end - len(name), span.end)), span=span)

    def sequence(self, span: Span, *items: ast.Expression) -> ast.Tuple:
        return ast.Tuple(items, span=span)

    def call(self, span: Span, function: Token, arguments: Arguments) -> ast.Call:
        positional, keywords = arguments
        return ast.Call(self._identifier(function), positional, keywords, span=span)

    def args(self, span: Span, *arguments: Any) -> Arguments:
        positional: list[ast.Expression] = []
        keywords: list[tuple[ast.Identifier, ast.Expression]] = []
        for argument in arguments:
            if isinstance(argument, _Keyword):
                keywords.append(argument)
                continue
            if keywords:
                self.problems.append(errors.misplaced_argument("a positional argument", argument.span))
            positional.append(argument)
        return tuple(positional), tuple(keywords)

    def keyword(self, span: Span, name: Token, value: ast.Expression) -> _Keyword:
        return _Keyword((self._identifier(name), value))


class _Keyword(tuple[ast.Identifier, ast.Expression]):
    """``name=value`` among the arguments of a call."""

    __slots__ = ()
