"""IR expressions as Python text, with parentheses only where Python needs them.

Patterns come from the operator table. Text is laid out as ``ruff format`` would leave it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard, assert_never

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS, SETTINGS, Level, Pattern
from optforge.compiler.ir.types import FULL, SCALAR, Dim, Kind, Shape

HOLE = re.compile(r"\{(\d+)(?::(\w+))?\}")
SIMPLE_OPERAND = re.compile(r"-?(\d[\d.]*(e[+-]?\d+)?|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
AXES = {"all": "(-2, -1)", "row": "-1", "col": "-2"}
LIKE = {FULL: "", FULL[::-1]: ".mT"}
SIZES = {Dim.ROWS: "shape[-2]", Dim.COLS: "shape[-1]"}


def quote(text: str) -> str:
    """A Python string literal, everything unprintable escaped, in the quotes that formatters prefer."""
    escaped = text.encode("unicode_escape").decode("ascii")
    if escaped.count('"') > escaped.count("'"):
        return "'" + escaped.replace("'", "\\'") + "'"
    return '"' + escaped.replace('"', '\\"') + '"'


def number_text(value: float, spelling: str) -> str:
    """A Python number for a literal: the spec's spelling where Python has the same one."""
    if value in (float("inf"), float("-inf")):
        return "math.inf" if value > 0 else "-math.inf"
    plain = re.fullmatch(r"-?(0|[1-9]\d{0,14})(\.\d{1,17})?([eE][+-]?\d{1,3})?", spelling)
    return spelling.lower() if plain else repr(value)


@dataclass
class Writer:
    """Writes expressions; notes in ``used`` which modules and runtime functions the text needs.

    ``names`` gives the Python name of each input by its key, and of each equation. Where elements come without
    rows and columns (``is_flat``), scalars have no dimensions either. New tensors are made ``like`` one that is full.
    """

    names: Mapping[ir.Key | EquationName, str]
    is_flat: bool = False
    like: str = "weight"
    rank: ir.Key = (ir.InputSource.DIMENSION, "")  # the rule's own dimension
    used: set[str] = field(default_factory=set)
    known: dict[int, tuple[ir.Expr, str, Level]] = field(default_factory=dict)

    def text(self, expr: ir.Expr, level: Level = Level.ANY) -> str:
        """The expression, in parentheses if it binds less tightly than ``level``."""
        if id(expr) not in self.known:  # written once: looking for a good place to break a line asks often
            self.known[id(expr)] = (expr, *self._written(expr))
        _, written, own = self.known[id(expr)]
        return f"({written})" if own < level else written

    def in_place(self, expr: ir.Expr) -> str:
        """The expression with its outermost operator overwriting its first argument."""
        assert isinstance(expr, ir.Apply)
        pattern = OPERATORS[expr.operator].in_place
        assert pattern is not None
        return self._filled(pattern, expr.arguments)[0]

    def _written(self, expr: ir.Expr) -> tuple[str, Level]:
        match expr:
            case ir.Literal():
                return self._literal(expr)
            case ir.Input():
                return self.names[expr.key], Level.POSTFIX
            case ir.Ref(name=name):
                return self.names[name], Level.POSTFIX
            case ir.Select():
                return self._select(expr)
            case ir.Apply(operator="fill"):
                return self._fill(expr), Level.POSTFIX
            case ir.Apply():
                return self._apply(expr)
            case ir.Prev() | ir.Latest():
                raise AssertionError(f"{type(expr).__name__} is gone after the stream check")
            case _:
                assert_never(expr)

    def _literal(self, node: ir.Literal) -> tuple[str, Level]:
        match node.type.kind:
            case Kind.AXIS:
                return AXES[str(node.value)], Level.POSTFIX
            case Kind.TEXT:
                return quote(str(node.value)), Level.POSTFIX
            case Kind.TRIPLES:
                return repr(node.value), Level.POSTFIX
            case Kind.BOOLEAN:
                return str(node.value), Level.POSTFIX
            case Kind.NUMBER:
                assert isinstance(node.value, float)
                if node.spelling == "pi":
                    self.used.add("math")
                    return "math.pi", Level.POSTFIX
                text = number_text(node.value, node.spelling)
                if "math." in text:
                    self.used.add("math")
                return text, Level.UNARY if text.startswith("-") else Level.POSTFIX
            case _:
                assert_never(node.type.kind)

    def _select(self, node: ir.Select) -> tuple[str, Level]:
        if node.condition.type.is_scalar_phase:
            then, condition = self.text(node.then, Level.OR), self.text(node.condition, Level.OR)
            return f"{then} if {condition} else {self.text(node.otherwise)}", Level.ANY
        if is_number(node.then, 1) and is_number(node.otherwise, 0):
            return f"{self.text(node.condition, Level.POSTFIX)}.to({self.like}.dtype)", Level.POSTFIX
        self.used.add("torch")
        return f"torch.where({', '.join(self.where_arguments(node))})", Level.POSTFIX

    def where_arguments(self, node: ir.Select) -> list[str]:
        """Of `torch.where`, for a choice that is made element by element."""
        then = self.text(node.then)
        if node.then.type.is_scalar_phase and node.otherwise.type.is_scalar_phase:
            then = f"{self.like}.new_full((), {then})"
        return [self.text(node.condition), then, self.text(node.otherwise)]

    def _size(self, shape: Shape) -> str:
        """The size of a batch of tensors; of the sizes of the full one only those are read that the shape has."""
        first, second = (self._side(dim) for dim in shape)
        if shape[0] is Dim.ROWS:
            return f"(*{self.like}.shape[:-1], {second})"
        return f"(*{self.like}.shape[:-2], {first}, {second})"

    def _side(self, dim: Dim) -> str:
        if dim is Dim.RANK:
            return self.names[self.rank]
        return "1" if dim is Dim.ONE else f"{self.like}.{SIZES[dim]}"

    def _fill(self, node: ir.Apply) -> str:
        """A Python number as a tensor, or a tensor spread over a larger shape."""
        (value,) = node.arguments
        shape = node.type.shape
        assert shape is not None
        if not value.type.is_scalar_phase:
            target = f"expand_as({self.like}{LIKE[shape]})" if shape in LIKE else f"expand({self._size(shape)})"
            return f"{self.text(value, Level.POSTFIX)}.{target}"
        kind = ", dtype=torch.bool" if node.type.kind is Kind.BOOLEAN else ""
        is_bare = self.is_flat and shape == SCALAR
        if is_bare or shape not in LIKE:
            self.used |= {"torch"} if kind else set()
            return f"{self.like}.new_full({'()' if is_bare else self._size(shape)}, {self.text(value)}{kind})"
        self.used.add("torch")
        return f"torch.full_like({self.like}{LIKE[shape]}, {self.text(value)}{kind})"

    def _apply(self, node: ir.Apply) -> tuple[str, Level]:
        operator = OPERATORS[node.operator]
        if node.operator == "pow" and node.type.is_scalar_phase:
            return self._scalar_power(node), Level.POWER
        if is_runtime_call(node):
            self.used.update(operator.imports)
            return f"{operator.name}({', '.join(self.call_arguments(node))})", Level.POSTFIX
        if node.operator == "or" and node.type.is_scalar_phase:
            return " or ".join(self._alternative(argument) for argument in node.arguments), Level.OR
        inner = node.arguments[0]
        if node.operator == "not" and node.type.is_scalar_phase and is_equality(inner):
            node = replace(inner, operator=OPPOSITE[inner.operator])
            operator = OPERATORS[node.operator]
        chain = self._chain(node)
        if chain is not None:
            return chain, Level.COMPARE
        if node.operator in MIRRORED and isinstance(node.arguments[0], ir.Literal):
            node = replace(node, operator=MIRRORED[node.operator], arguments=node.arguments[::-1])
            operator = OPERATORS[node.operator]
        values = node.arguments[: operator.values]
        phases = "".join("S" if value.type.is_scalar_phase else "T" for value in values)
        pattern = operator.torch.get(phases) or operator.torch["*"]
        self.used.update(name for name in operator.imports if name in pattern.text)
        return self._filled(pattern, node.arguments)

    def _filled(self, pattern: Pattern, arguments: tuple[ir.Expr, ...]) -> tuple[str, Level]:
        def fill(hole: re.Match[str]) -> str:
            level = Level[hole[2].upper()] if hole[2] else Level.ANY
            return self.text(arguments[int(hole[1])], level)

        for module in ("math", "torch", "ieee"):
            if f"{module}." in pattern.text:
                self.used.add(module)
        return HOLE.sub(fill, pattern.text).replace("{like}", self.like), pattern.level

    def call_arguments(self, node: ir.Apply) -> list[str]:
        """Of a runtime function: values by position, settings by keyword where they are not the default."""
        operator = OPERATORS[node.operator]
        shown: list[str] = []
        named: list[str] = []
        for parameter, argument in zip(operator.parameters, node.arguments, strict=True):
            text = self.text(argument)
            if parameter.default is None:
                shown.append(text)
            elif not (isinstance(argument, ir.Literal) and argument.spelling == parameter.default):
                is_named = parameter.keyword_only or parameter.want in SETTINGS
                (named if is_named else shown).append(f"{parameter.name}={text}" if is_named else text)
        return [*shown, *named]

    def _scalar_power(self, node: ir.Apply) -> str:
        """``x**2``; a literal base is written as a float, so that large powers overflow instead of growing."""
        base, exponent = node.arguments
        left, right = self.text(base, Level.POSTFIX), self.text(exponent, Level.UNARY)
        if isinstance(base, ir.Literal) and left.isdigit():
            left += ".0"
        hug = SIMPLE_OPERAND.fullmatch(left) and SIMPLE_OPERAND.fullmatch(right)
        return f"{left}**{right}" if hug else f"{left} ** {right}"

    def _alternative(self, node: ir.Expr) -> str:
        """One side of ``or``; a conjunction stands in parentheses for the reader's sake."""
        is_and = isinstance(node, ir.Apply) and node.operator == "and"
        return f"({self.text(node)})" if is_and else self.text(node, Level.OR)

    def _chain(self, node: ir.Apply) -> str | None:
        """``a <= b < c`` for the conjunction of two scalar comparisons that share their middle."""
        if node.operator != "and" or not node.type.is_scalar_phase:
            return None
        left, right = node.arguments
        if not (is_comparison(left) and is_comparison(right)):
            if isinstance(left, ir.Apply) and left.operator == "and" and is_comparison(right):
                head = self._chain(left)
                last = left.arguments[1]
                if head is not None and is_comparison(last) and last.arguments[1] == right.arguments[0]:  # type: ignore[union-attr]
                    return f"{head} {self._tail(right)}"
            return None
        assert isinstance(left, ir.Apply) and isinstance(right, ir.Apply)
        if left.arguments[1] != right.arguments[0]:
            return None
        first = self.text(left.arguments[0], Level.BIT_OR)
        return f"{first} {self._tail(left)} {self._tail(right)}"

    def _tail(self, node: ir.Expr) -> str:
        assert isinstance(node, ir.Apply)
        return f"{OPERATORS[node.operator].symbol} {self.text(node.arguments[1], Level.BIT_OR)}"


# A comparison with a literal is written with the literal on the right.
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


OPPOSITE = {"eq": "ne", "ne": "eq"}


def is_runtime_call(expr: ir.Expr) -> TypeGuard[ir.Apply]:
    """Whether the expression is written as a call of a function of the runtime."""
    if not isinstance(expr, ir.Apply):
        return False
    operator = OPERATORS[expr.operator]
    return operator.needs_matrix and bool(operator.imports) and operator.values > 0


def is_number(expr: ir.Expr, value: float) -> bool:
    return isinstance(expr, ir.Literal) and not isinstance(expr.value, bool) and expr.value == value


def is_equality(expr: ir.Expr) -> TypeGuard[ir.Apply]:
    return isinstance(expr, ir.Apply) and expr.operator in OPPOSITE


def is_comparison(expr: ir.Expr) -> bool:
    return isinstance(expr, ir.Apply) and expr.operator in ("lt", "le", "gt", "ge", "eq", "ne")
