"""IR in the spec language again: expressions for messages, whole functions in a form that reads back.

A dumped function lists its inputs with their types, then its equations, then what it returns::

    function step for matrix
        stream grad: stream (rows, cols)
        state m: stream (rows, cols)
        hyper beta: constant
        given beta < 1

        m: stream (rows, cols) := lerp(prev(m), grad, 1 - beta)
        when mod(t, 10) == 1:
            p: stream (rows, rows) = inverse_root(value("m.gram"), 4)

        return m = m

``value("m.gram")`` is an equation whose name is no word, ``prev(m)`` a state, ``given("argument", "k")`` one of
several inputs of a name, ``:=`` overwrites the first argument, and ``typed(x, "...")`` stands where the type of a part
is not the one that its own parts give it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import constant_value, default_of
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, function_text, name_text, read_function_name, read_name
from optforge.compiler.ir.operators import BINARY, OPERATORS, UNARY, Want
from optforge.compiler.ir.types import SCALAR, Dim, Kind, Phase, Shape, Type, Universe, broadcast
from optforge.dsl import ast
from optforge.dsl.parser import parse_expression
from optforge.dsl.printer import print_expression
from optforge.dsl.source import NOWHERE, Source

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def expression_text(expr: ir.Expr) -> str:
    """The expression as a spec would write it."""
    return print_expression(Surface().node(expr))


class Surface:
    """The surface trees that mean expressions."""

    def node(self, expr: ir.Expr) -> ast.Expression:
        match expr:
            case ir.Literal():
                return self.literal(expr)
            case ir.Input(name=name, source=ir.InputSource.STATE):
                return call("prev", ast.Name(name) if name.isidentifier() else ast.Text(name))
            case ir.Input():
                return self.given(expr)
            case ir.Latest(stream=stream):
                return ast.Name(stream.name.word)
            case ir.Ref():
                return self.reference(expr)
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                return ast.Select(self.node(condition), self.node(then), self.node(otherwise))
            case ir.Apply():
                return self.apply(expr)
            case ir.Prev(stream=stream, initial=initial):
                return call("prev", self.node(stream), self.node(initial))
            case _:
                assert_never(expr)

    def given(self, node: ir.Input) -> ast.Expression:
        return ast.Name(node.name)

    def reference(self, node: ir.Ref) -> ast.Expression:
        word = node.name.word
        return ast.Name(word) if word.isidentifier() else call("value", ast.Text(word))

    def literal(self, node: ir.Literal) -> ast.Expression:
        match node.value:
            case bool():
                return ast.Boolean(node.value)
            case str():
                return ast.Name(node.value) if node.type.kind is Kind.AXIS else ast.Text(node.value)
            case tuple():
                triples = [ast.Tuple(tuple(number(x) for x in triple)) for triple in node.value]
                return triples[0] if len(triples) == 1 else ast.Tuple(tuple(triples))
            case _:
                if node.spelling.startswith("-"):
                    return ast.Unary("-", ast.Number(node.spelling[1:]))
                return ast.Name("pi") if node.spelling == "pi" else ast.Number(node.spelling)

    def apply(self, node: ir.Apply) -> ast.Expression:
        operator = OPERATORS[node.operator]
        if node.operator == "and":
            return self.conjunction(node)
        if operator.symbol and len(node.arguments) == 2:
            left, right = (self.node(argument) for argument in node.arguments)
            if node.operator in COMPARISONS:
                return ast.Comparison(left, ((operator.symbol, right),))
            return ast.Binary(operator.symbol, left, right)
        if operator.symbol:
            return ast.Unary(operator.symbol, self.node(node.arguments[0]))
        return ast.Call(ast.Identifier(node.operator), *self.call_arguments(node))

    def conjunction(self, node: ir.Apply) -> ast.Expression:
        """``a <= b and b < c`` as ``a <= b < c``, which is how it was written."""
        left, right = (self.node(argument) for argument in node.arguments)
        if not (isinstance(left, ast.Comparison) and isinstance(right, ast.Comparison) and len(right.rest) == 1):
            return ast.Binary("and", left, right)
        if left.rest[-1][1] != right.first:
            return ast.Binary("and", left, right)
        return ast.Comparison(left.first, left.rest + right.rest)

    def call_arguments(
        self, node: ir.Apply
    ) -> tuple[tuple[ast.Expression, ...], tuple[tuple[ast.Identifier, ast.Expression], ...]]:
        """Required arguments by position, the others by keyword where they differ from their default."""
        positional: list[ast.Expression] = []
        keywords: list[tuple[ast.Identifier, ast.Expression]] = []
        for parameter, argument in zip(OPERATORS[node.operator].parameters, node.arguments, strict=True):
            if parameter.default is None:
                positional.append(self.node(argument))
            elif not (isinstance(argument, ir.Literal) and argument.spelling == parameter.default):
                keywords.append((ast.Identifier(parameter.name), self.node(argument)))
        return tuple(positional), tuple(keywords)


def number(value: float) -> ast.Expression:
    return ast.Unary("-", ast.Number(repr(-value))) if value < 0 else ast.Number(repr(value))


def call(function: str, *arguments: ast.Expression) -> ast.Call:
    return ast.Call(ast.Identifier(function), arguments)


# Types


PHASES = {phase.name.lower(): phase for phase in Phase}
KINDS = {kind.name.lower(): kind for kind in Kind}


def type_text(found: Type) -> str:
    """``constant``, ``stream (rows, 1)``, ``step boolean``: numbers and scalars go without saying."""
    kind = "" if found.kind is Kind.NUMBER else f" {found.kind.name.lower()}"
    shape = "" if found.shape in (SCALAR, None) else f" ({found.shape[0].value}, {found.shape[1].value})"
    return f"{found.phase.name.lower()}{kind}{shape}"


def read_type(text: str) -> Type:
    match = re.fullmatch(r"(\w+)(?: ([a-z]+))?(?: \((\w+), (\w+)\))?", text)
    if match is None or match[1] not in PHASES or (match[2] or "number") not in KINDS:
        raise ValueError(f"this is no type: {text}")
    shape = (Dim(match[3]), Dim(match[4])) if match[3] else SCALAR
    return Type(KINDS[match[2] or "number"], shape, PHASES[match[1]])


def natural_type(node: ir.Apply | ir.Select) -> Type:
    """The type that the types of its parts give a node."""
    if isinstance(node, ir.Select):
        parts = [node.then, node.otherwise, *([] if node.condition.type.is_scalar_phase else [node.condition])]
        shape: Shape | None = SCALAR
        for part in parts:
            shape = broadcast(shape, part.type.shape)
        phase = max(node.condition.type.phase, node.then.type.phase, node.otherwise.type.phase)
        return Type(node.then.type.kind, shape, phase)
    operator = OPERATORS[node.operator]
    values = [argument.type for argument in node.arguments[: operator.values]]
    axes = [a.value for p, a in zip(operator.parameters, node.arguments, strict=True)
            if p.want is Want.AXIS and isinstance(a, ir.Literal)]  # fmt: skip
    shape = operator.shape(tuple(value.shape for value in values), str(axes[0]) if axes else "all")
    kind = Kind.BOOLEAN if operator.boolean else Kind.NUMBER
    phase = Phase.STREAM if operator.is_stream else max((value.phase for value in values), default=Phase.CONSTANT)
    return Type(kind, shape, phase)


# Dumps


def dump_function(function: ir.Function) -> str:
    """The whole function as text that :func:`read_function` reads back."""
    inputs = {node.key: node for node in declared_inputs(function)}
    dump = Dump(function)
    head = f"function {function_text(function.name)} for {function.universe.value}"
    lines = [head + f" with {function.rank}" * bool(function.rank)]
    lines += [f"    {node.source.value} {node.name}: {type_text(node.type)}" for node in inputs.values()]
    lines += [*(f"    given {dump.text(condition)}" for condition in function.given), *([""] if inputs else [])]
    for equation in function.equations:
        lines += [f"    {line}" for line in dump.equation(equation)]
    lines += [""] if function.equations else []
    lines += [f"    return {output.name} = {dump.text(output.value)}" for output in function.outputs]
    return "\n".join(lines)


def declared_inputs(function: ir.Function) -> list[ir.Input]:
    """Every input that a dump declares: what the function reads, and what is known of it."""
    known = [node for condition in function.given for node in ir.walk(condition)]
    return [*inputs_of(function), *(node for node in known if isinstance(node, ir.Input))]


class Dump(Surface):
    """Surface trees that say everything: which name is an equation, and types that are not to be expected."""

    def __init__(self, function: ir.Function) -> None:
        self.types = {equation.name: equation.value.type for equation in function.equations}
        self.declared = {node.key: node.type for node in declared_inputs(function)}
        self.inputs = Counter(name for source, name in self.declared if source is not ir.InputSource.STATE)

    def text(self, expr: ir.Expr) -> str:
        return print_expression(self.node(expr))

    def equation(self, equation: ir.Equation) -> list[str]:
        sign = ":=" if equation.in_place else "="
        line = f"{name_text(equation.name)}: {type_text(equation.value.type)} {sign} {self.text(equation.value)}"
        return [line] if equation.when is None else [f"when {self.text(equation.when)}:", f"    {line}"]

    def node(self, expr: ir.Expr) -> ast.Expression:
        plain = super().node(expr)
        return plain if expr.type == self.expected(expr) else call("typed", plain, ast.Text(type_text(expr.type)))

    def expected(self, expr: ir.Expr) -> Type | None:
        match expr:
            case ir.Literal(value=value):
                return literal_type(value, expr.type.kind is Kind.AXIS)
            case ir.Input():
                return self.declared[expr.key]
            case ir.Ref(name=name):
                return self.types[name]
            case ir.Apply() | ir.Select():
                return natural_type(expr)
            case _:
                return None

    def given(self, node: ir.Input) -> ast.Expression:
        is_plain = self.inputs[node.name] == 1
        return ast.Name(node.name) if is_plain else call("given", ast.Text(node.source.value), ast.Text(node.name))

    def reference(self, node: ir.Ref) -> ast.Expression:
        text = name_text(node.name)
        is_plain = text.isidentifier() and text not in self.inputs
        return ast.Name(text) if is_plain else call("value", ast.Text(text))

    def literal(self, node: ir.Literal) -> ast.Expression:
        if isinstance(node.value, float) and node.spelling.startswith("-"):
            return call("literal", ast.Text(node.spelling))
        return super().literal(node)


def literal_type(value: ir.Value, is_axis: bool) -> Type:
    kinds = {bool: Kind.BOOLEAN, str: Kind.AXIS if is_axis else Kind.TEXT, tuple: Kind.TRIPLES}
    return Type(kinds.get(type(value), Kind.NUMBER), SCALAR, Phase.CONSTANT)


# Reading dumps


HEAD = re.compile(r"function (\S+) for (\w+)(?: with (\w+))?")
INPUT = re.compile(r"(stream|state|hyper|step|dimension|argument|given|combined) (\S+): (.*)")
EQUATION = re.compile(r"(\S+): ([a-z]+(?: [a-z]+)?(?: \(\w+, \w+\))?) (:?=) (.*)")
RETURN = re.compile(r"return (\S+) = (.*)")
AXES = ("row", "col", "all")


def read_function(text: str) -> ir.Function:
    """The function that a dump shows; ValueError for text that is none."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    head = HEAD.fullmatch(lines[0]) if lines else None
    if head is None:
        raise ValueError("a dump begins with `function NAME for UNIVERSE`")
    reader = Reader()
    body = [line for line in lines[1:] if not reader.declare(line)]
    reader.types = {read_name(match[1]): read_type(match[2]) for line in body if (match := EQUATION.fullmatch(line))}
    equations, outputs, given, when = [], [], [], None
    for line in body:
        if line.startswith("given "):
            given.append(reader.expression(line.removeprefix("given ")))
        elif line.startswith("when "):
            when = reader.expression(line.removeprefix("when ").removesuffix(":"))
        elif match := RETURN.fullmatch(line):
            outputs.append(ir.Output(match[1], reader.expression(match[2])))
        elif match := EQUATION.fullmatch(line):
            value = reader.expression(match[4])
            equations.append(ir.Equation(read_name(match[1]), value, when=when, in_place=match[3] == ":="))
            when = None
        else:
            raise ValueError(f"this line is no equation: {line}")
    name, parts = read_function_name(head[1]), (tuple(equations), tuple(outputs), tuple(given))
    return ir.Function(name, Universe(head[2]), *parts, head[3] or "")


@dataclass
class Reader:
    """Reads expressions of a dump, given its inputs and the types of its equations."""

    inputs: dict[ir.Key, ir.Input] = field(default_factory=dict)
    plain: dict[str, ir.Input] = field(default_factory=dict)  # those that are no states, by name alone
    types: Mapping[EquationName, Type] = field(default_factory=dict)

    def declare(self, line: str) -> bool:
        """Note the input that the line declares, if it does."""
        match = INPUT.fullmatch(line)
        if match is None:
            return False
        node = ir.Input(match[2], ir.InputSource(match[1]), type=read_type(match[3]))
        self.inputs[node.key] = node
        self.plain |= {} if node.source is ir.InputSource.STATE else {node.name: node}
        return True

    def expression(self, text: str) -> ir.Expr:
        tree, problems = parse_expression(Source("dump", text))
        if tree is None:
            raise ValueError(f"this is no expression: {text} ({problems})")
        return self.node(tree)

    def node(self, tree: ast.Expression) -> ir.Expr:
        match tree:
            case ast.Number(spelling=spelling):
                return literal(float(spelling), spelling)
            case ast.Boolean(value=value):
                return literal(value, str(value).lower())
            case ast.Text(value=value):
                return literal(value, f'"{value}"')
            case ast.Tuple():
                return self.triples(tree)
            case ast.Name(name=name):
                return self.name(name)
            case ast.Unary(operator=symbol, operand=operand):
                return apply(UNARY[symbol], self.node(operand))
            case ast.Binary(operator=symbol, left=left, right=right):
                return apply(BINARY[symbol], self.node(left), self.node(right))
            case ast.Comparison():
                return self.comparison(tree)
            case ast.Select(condition=condition, then=then, otherwise=otherwise):
                parts = [self.node(part) for part in (condition, then, otherwise)]
                choice = ir.Select(*parts)
                return replace(choice, type=natural_type(choice))
            case ast.Call():
                return self.call(tree)
            case _:
                raise ValueError(f"a dump has no {type(tree).__name__}")

    def name(self, name: str) -> ir.Expr:
        if name == "pi":
            return literal(3.141592653589793, "pi")
        if name in AXES:
            return ir.Literal(name, name, type=literal_type(name, True))
        return self.plain[name] if name in self.plain else self.reference(name)

    def reference(self, text: str) -> ir.Ref:
        name = read_name(text)
        return ir.Ref(name, type=self.types[name])

    def triples(self, tree: ast.Tuple) -> ir.Expr:
        rows = [row.items for row in tree.items if isinstance(row, ast.Tuple)] or [tree.items]
        values = tuple(tuple(constant_value(item) or 0.0 for item in row) for row in rows)
        spelled = ", ".join("(" + ", ".join(repr(value) for value in row) + ")" for row in values)
        return literal(values, f"({spelled},)")

    def comparison(self, tree: ast.Comparison) -> ir.Expr:
        operands = [self.node(tree.first), *(self.node(operand) for _, operand in tree.rest)]
        tests = [apply(BINARY[s], *operands[i : i + 2]) for i, (s, _) in enumerate(tree.rest)]
        result = tests[0]
        for test in tests[1:]:
            result = apply("and", result, test)
        return result

    def call(self, tree: ast.Call) -> ir.Expr:
        (first, *_), name = tree.arguments, tree.function.name
        words = [
            x.value if isinstance(x, ast.Text) else x.name if isinstance(x, ast.Name) else "" for x in tree.arguments
        ]
        text = words[0]
        match name:
            case "prev":
                return self.inputs[ir.stored(text)]
            case "given":
                return self.inputs[ir.InputSource(text), words[1]]
            case "value":
                return self.reference(text)
            case "literal":
                return literal(float(text), text)
            case "typed":
                return replace(self.node(first), type=read_type(words[1]))
        given = dict(zip((p.name for p in OPERATORS[name].parameters), tree.arguments, strict=False))
        given |= {key.name: value for key, value in tree.keywords}
        arguments = [
            self.node(given[p.name]) if p.name in given else default_of(p, NOWHERE) for p in OPERATORS[name].parameters
        ]
        return apply(name, *arguments)


def literal(value: ir.Value, spelling: str) -> ir.Literal:
    return ir.Literal(value, spelling, type=literal_type(value, False))


def apply(operator: str, *arguments: ir.Expr) -> ir.Expr:
    node = ir.Apply(operator, arguments)
    return replace(node, type=natural_type(node))
