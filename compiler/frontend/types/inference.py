"""The type of one expression, given the types of the equations and inputs it reads.

:class:`Inference` is used twice: silently while the shapes of recursive equations are being found,
and once more with a report, when what does not fit becomes a diagnostic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import is_
from typing import TypeAlias, TypeVar, assert_never

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import arithmetic_problem
from optforge.compiler.ir.operators import OPERATORS, SETTINGS, Formal, Operator, ShapeProblem, Want
from optforge.compiler.ir.types import (
    BASES,
    BESIDE,
    FULL,
    SCALAR,
    SQUARES,
    Dim,
    Kind,
    Phase,
    Shape,
    Type,
    Universe,
    broadcast,
    describe,
)
from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.source import Span

Reporter = Callable[[Diagnostic], None]
Node = TypeVar("Node", ir.Input, ir.Latest, ir.Ref, ir.Apply)
Types: TypeAlias = dict[ir.StreamRef | ir.Key, Type]  # of equations, and of states
BOTTOM = Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)


# What is probably meant where an axis should stand.
AXIS_HINTS = {
    "rows": "`row` is the axis, `rows` the number of rows: `per=row`",
    "cols": "`col` is the axis, `cols` the number of columns: `per=col`",
    '"row"': "without quotes: `per=row`",
    '"col"': "without quotes: `per=col`",
}


def kind_hint(wanted: Kind, found: Kind, span: Span) -> str | None:
    """What to do about a value of the wrong kind."""
    if wanted is Kind.NUMBER and found is Kind.BOOLEAN:
        return "`1 if ... else 0` makes a number of a condition"
    if wanted is Kind.BOOLEAN and found is Kind.NUMBER:
        is_literal = re.fullmatch(r"[\d.]+", span.text)
        return "write `true` or `false`" if is_literal else "compare the number with something, such as `... > 0`"
    return AXIS_HINTS.get(span.text) if wanted is Kind.AXIS else None


def with_type(node: Node, found: Type) -> Node:
    """The node with this type; itself where it has it already, as most nodes do when types are settled."""
    return node if node.type == found else replace(node, type=found)


def silent(diagnostic: Diagnostic) -> None:
    return None


# The shapes of what must be square, or nearly, or laid out like what the parameter has.
SOME_SHAPES = {Want.GRAM: SQUARES, Want.BASIS: BASES, Want.LAID: BESIDE}


def is_no_share(parameter: Formal, argument: ir.Expr) -> bool:
    """Whether a literal is not from 0 to 1, where it has to be."""
    if parameter.name != "q" or not isinstance(argument, ir.Literal) or not isinstance(argument.value, float):
        return False
    return not 0 <= argument.value <= 1


def is_count(value: ir.Value) -> bool:
    return isinstance(value, float) and value.is_integer() and value >= 0


@dataclass(frozen=True)
class Inference:
    """``known`` has the types of equations, and of states where there are some; ``kinds`` those of hypers and
    arguments; ``choices`` are the closed sets of hypers that are strings. Inputs go by their keys."""

    owner: str
    universe: Universe
    words: str
    known: Types
    kinds: Mapping[ir.Key, Kind]
    choices: Mapping[ir.Key, tuple[str, ...]]
    report: Reporter = silent
    in_claim: bool = False
    is_settled: bool = True  # shapes can no longer grow
    rank: str = ""  # what the rule calls its own dimension

    def typed(self, expr: ir.Expr) -> ir.Expr:
        """The same expression with a type on every node."""
        match expr:
            case ir.Literal():
                return expr
            case ir.Input():
                return with_type(expr, self._input_type(expr))
            case ir.Ref(name=name):
                return with_type(expr, self.known.get(ir.StreamRef(self.owner, name), BOTTOM))
            case ir.Latest(stream=stream):
                return with_type(expr, replace(self.known.get(stream, BOTTOM), phase=Phase.STREAM))
            case ir.Prev():
                return self._prev(expr)
            case ir.Apply(operator=ir.ROUND, arguments=(before, after)):
                return self._round(self.typed(before), self.typed(after), expr.span)
            case ir.Apply():
                arguments = tuple([self.typed(argument) for argument in expr.arguments])
                is_same = all(map(is_, arguments, expr.arguments))
                return self._apply(expr if is_same else replace(expr, arguments=arguments))
            case ir.Select():
                return self._select(expr)
            case _:
                assert_never(expr)

    def _input_type(self, node: ir.Input) -> Type:
        match node.source:
            case ir.InputSource.STREAM:
                return Type(Kind.NUMBER, FULL, Phase.STREAM)
            case ir.InputSource.GIVEN:
                return Type(Kind.NUMBER, FULL, Phase.STREAM) if self.universe is Universe.TENSOR else node.type
            case ir.InputSource.STATE:
                return replace(self.known.get(node.key, BOTTOM), phase=Phase.STREAM)
            case ir.InputSource.STEP:
                return Type(Kind.NUMBER, SCALAR, Phase.STEP)
            case ir.InputSource.DIMENSION:
                if self.universe is Universe.TENSOR and not self.in_claim:
                    self.report(errors.not_elementwise(node.name, self.words, node.span))
                return Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)
            case ir.InputSource.HYPER | ir.InputSource.ARGUMENT:
                return Type(self.kinds.get(node.key, Kind.NUMBER), SCALAR, Phase.CONSTANT)
            case ir.InputSource.COMBINED:
                return Type(Kind.NUMBER, SCALAR, Phase.STREAM)
            case _:
                assert_never(node.source)

    def _prev(self, node: ir.Prev) -> ir.Expr:
        stream = self.typed(node.stream)
        assert isinstance(stream, ir.Ref | ir.Input)
        initial = self.typed(node.initial)
        self._require_kind("a state", Kind.NUMBER, stream.type, node.stream.span)
        self._require_kind("an initial value", Kind.NUMBER, initial.type, initial.span)
        try:
            shape = broadcast(stream.type.shape, initial.type.shape)
        except ValueError:
            shape = None if self.is_settled else stream.type.shape
            self._shapes_differ("prev", (stream, initial), 0, 1, node.span)
        if self.is_settled and shape is not None and shape != stream.type.shape:
            self._wrong_shape("the initial value", stream.type.shape, initial.type.shape, initial.span)
        return replace(node, stream=stream, initial=initial, type=Type(Kind.NUMBER, shape, Phase.STREAM))

    def _select(self, node: ir.Select) -> ir.Expr:
        condition, then, otherwise = (self.typed(part) for part in (node.condition, node.then, node.otherwise))
        self._require_kind("a condition", Kind.BOOLEAN, condition.type, condition.span)
        if then.type.kind is not otherwise.type.kind:
            self.report(
                errors.wrong_kind(
                    "the branch after `else`", then.type.kind.value, otherwise.type.kind.value, otherwise.span
                )
            )
        parts = (then, otherwise) if condition.type.is_scalar_phase else (condition, then, otherwise)
        shape: Shape | None = SCALAR
        for position, part in enumerate(parts):
            try:
                shape = broadcast(shape, part.type.shape)
            except ValueError:
                shape = None if self.is_settled else shape
                self._shapes_differ("if", parts, position - 1, position, node.span)
        phase = max(condition.type.phase, then.type.phase, otherwise.type.phase)
        result = Type(then.type.kind, shape, phase)
        return replace(node, condition=condition, then=then, otherwise=otherwise, type=result)

    def _round(self, before: ir.Expr, after: ir.Expr, span: Span) -> ir.Expr:
        """What a round of a repetition gives: of the shape of what it was given, or one that this spreads over."""
        shape = after.type.shape
        if not self.is_settled or shape is None or before.type.shape is None:
            return after
        if all(side in (Dim.ONE, wanted) for side, wanted in zip(before.type.shape, shape, strict=True)):
            return after
        given, found = (describe(Kind.NUMBER, each.type.shape, self.universe, self.rank) for each in (before, after))
        self.report(errors.bad_repetition(f"of {given} this makes {found}, so that it cannot be done again", span))
        return replace(after, type=replace(after.type, shape=None))

    def _apply(self, node: ir.Apply) -> ir.Expr:
        operator = OPERATORS[node.operator]
        self._require_universe(operator, node)
        fit = [
            self._require_argument(operator, *pair) for pair in zip(operator.parameters, node.arguments, strict=True)
        ]
        fit.append(self._require_alike(operator, node))
        values = node.arguments[: operator.values]
        axis = self._axis(operator, node)
        try:
            shape = operator.shape(tuple(value.type.shape for value in values), axis)
        except ShapeProblem as problem:
            shape = None if self.is_settled else problem.likely
            self._shapes_differ(operator.word, values, problem.left, problem.right, node.span)
        if (operator.needs_matrix and self.universe is Universe.TENSOR) or (self.is_settled and not all(fit)):
            shape = None
        phase = max((value.type.phase for value in values), default=Phase.CONSTANT)
        phase = Phase.STREAM if operator.is_stream else phase
        kind = Kind.BOOLEAN if operator.boolean else Kind.NUMBER
        typed = with_type(node, Type(kind, shape, phase))
        if all(fit):
            self._require_value(typed)
        return typed

    def _axis(self, operator: Operator, node: ir.Apply) -> str:
        for parameter, argument in zip(operator.parameters, node.arguments, strict=True):
            if parameter.want is Want.AXIS and argument.type.kind is Kind.AXIS:
                if not isinstance(argument, ir.Literal):
                    self.report(errors.wrong_kind("`per`", "`row` or `col` itself", "an expression", argument.span))
                    continue
                is_refused = self.universe is Universe.TENSOR and not self.in_claim and not operator.needs_matrix
                if argument.value != "all" and is_refused:
                    self.report(errors.not_elementwise(f"per={argument.value}", self.words, argument.span))
                return str(argument.value)
        return "all"

    # Requirements

    def _require_universe(self, operator: Operator, node: ir.Apply) -> None:
        if operator.needs_matrix and self.universe is Universe.TENSOR:
            self.report(errors.not_elementwise(operator.word, self.words, node.span))

    def _require_kind(self, where: str, wanted: Kind, found: Type, span: Span) -> bool:
        if found.kind is wanted:
            return True
        self.report(errors.wrong_kind(where, wanted.value, found.kind.value, span, kind_hint(wanted, found.kind, span)))
        return False

    def _require_alike(self, operator: Operator, node: ir.Apply) -> bool:
        """What is compared for equality must be of one kind, and a string one that the other side can be."""
        if operator.name not in ("eq", "ne"):
            return True
        for one, other in (node.arguments, node.arguments[::-1]):
            if isinstance(one, ir.Input) and one.key in self.choices and isinstance(other, ir.Literal):
                self._require_choice(f"`{one.name}`", self.choices[one.key], other)
        left, right = node.arguments
        return self._require_kind(f"`{operator.symbol}`", left.type.kind, right.type, right.span)

    def _require_argument(self, operator: Operator, parameter: Formal, argument: ir.Expr) -> bool:
        """Whether kind and shape are right; they are reported where they are not, and so is the phase of a setting."""
        where = f"`{operator.word}`"
        found, want = argument.type, parameter.want
        if want is Want.RANK:
            return self._require_rank(where, argument)
        if want in SETTINGS:
            return self._require_setting(where, parameter, argument)
        if want is not Want.ANY:
            wanted = Kind.BOOLEAN if want is Want.BOOLEAN else Kind.NUMBER
            if not self._require_kind(where, wanted, found, argument.span):
                return False
        if want in (Want.MATRIX, Want.GRAM, Want.BASIS) and found.is_scalar_phase and found.shape is not None:
            self.report(errors.wrong_shape(where, want.value, "a scalar", argument.span))
        elif found.shape is not None and found.shape not in SOME_SHAPES.get(want, (found.shape,)):
            self._wrong_shape(where, None, found.shape, argument.span, want.value)
        elif parameter.name == "of" and want is Want.MATRIX and found.shape is not None and Dim.RANK in found.shape:
            self._wrong_shape(where, None, found.shape, argument.span, "a matrix of rows and columns")
        elif want is Want.SCALAR and found.shape not in (SCALAR, None):
            self._wrong_shape(where, SCALAR, found.shape, argument.span)
        else:
            return True
        return False

    def _require_rank(self, where: str, argument: ir.Expr) -> bool:
        is_own = isinstance(argument, ir.Input) and argument.source is ir.InputSource.DIMENSION
        if is_own and isinstance(argument, ir.Input) and argument.name == self.rank:
            return True
        hint = f"here it is `{self.rank}`" if self.rank else "declare it in the rule: `dim r = min(rank, rows, cols)`"
        self.report(errors.bad_dimension(f"{where} takes a dimension of the rule", argument.span, hint))
        return False

    def _require_setting(self, where: str, parameter: Formal, argument: ir.Expr) -> bool:
        kind = {
            Want.AXIS: Kind.AXIS,
            Want.NUMBER: Kind.NUMBER,
            Want.TEXT: Kind.TEXT,
            Want.TRIPLES: Kind.TRIPLES,
            Want.RULE: Kind.TEXT,
        }[parameter.want]
        place = f"`{parameter.name}` of {where}"
        if not self._require_kind(place, kind, argument.type, argument.span):
            return False
        if argument.type.phase is not Phase.CONSTANT:
            self.report(errors.not_constant(place, argument.span))
        if parameter.choices:
            self._require_choice(place, parameter.choices, argument)
        if is_no_share(parameter, argument):
            self.report(errors.wrong_kind(place, "a share from 0 to 1", f"`{argument.span.text}`", argument.span))
        wants_count = parameter.name == "stream" or (parameter.name == "steps" and isinstance(argument, ir.Literal))
        if wants_count and not (isinstance(argument, ir.Literal) and is_count(argument.value)):
            self.report(errors.wrong_kind(place, "a whole number, 0 or more", f"`{argument.span.text}`", argument.span))
        return True

    def _require_choice(self, place: str, allowed: tuple[str, ...], argument: ir.Expr) -> None:
        """Every string that the argument may be must be one that is known."""
        if isinstance(argument, ir.Select):
            self._require_choice(place, allowed, argument.then)
            self._require_choice(place, allowed, argument.otherwise)
        possible = self.choices.get(argument.key, ()) if isinstance(argument, ir.Input) else ()
        if isinstance(argument, ir.Literal) and argument.type.kind is Kind.TEXT:
            possible = (str(argument.value),)
        for value in possible:
            if value not in allowed:
                self.report(errors.unknown_choice(place, value, allowed, argument.span))

    def _require_value(self, node: ir.Apply) -> None:
        """Arithmetic on literals must have a result."""
        problem = arithmetic_problem(node) if node.type.phase is Phase.CONSTANT else None
        if problem is not None:
            self.report(errors.bad_arithmetic(node.span.text, problem, node.span))

    # Shapes in words

    def _shapes_differ(self, operator: str, arguments: tuple[ir.Expr, ...], left: int, right: int, span: Span) -> None:
        first, second = arguments[left], arguments[right]
        inner = "columns of the left and rows of the right must agree, as in `x @ y'` or `x' @ y`"
        self.report(
            errors.shape_mismatch(
                operator,
                describe(Kind.NUMBER, first.type.shape, self.universe, self.rank),
                first.span,
                describe(Kind.NUMBER, second.type.shape, self.universe, self.rank),
                second.span,
                span,
                inner if operator == "@" else None,
            )
        )

    def _wrong_shape(
        self, where: str, wanted: Shape | None, found: Shape | None, span: Span, words: str | None = None
    ) -> None:
        wanted_words = words or describe(Kind.NUMBER, wanted, self.universe, self.rank)
        self.report(
            errors.wrong_shape(where, wanted_words, describe(Kind.NUMBER, found, self.universe, self.rank), span)
        )
