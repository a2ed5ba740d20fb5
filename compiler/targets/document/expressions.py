"""Expressions of the IR as formulas: names have symbols already, operators have rows in ``notation``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import Universe
from optforge.compiler.targets.document import formulas
from optforge.compiler.targets.document.formulas import Formula, Tightness
from optforge.compiler.targets.document.notation import call_formula, print_operation
from optforge.compiler.targets.document.operations import Operation, is_tensor
from optforge.compiler.targets.document.outline import DefinitionMark

COMPARISONS = {"lt": "<", "le": r"\le", "gt": ">", "ge": r"\ge", "eq": "=", "ne": r"\ne"}


@dataclass(frozen=True)
class Scribe:
    """Writes expressions of one function.

    Attributes:
        inputs: what stands for the inputs.
        equations: what stands for the equations.
        universe: what the rule knows of tensors.
        is_flat: whether there is room for no bars of fractions.
    """

    inputs: Mapping[ir.Key, Formula]
    equations: Mapping[EquationName, Formula]
    universe: Universe
    is_flat: bool = False

    def formula(self, expr: ir.Expr) -> Formula:
        match expr:
            case ir.Literal():
                return literal_formula(expr)
            case ir.Input():
                return self.inputs[expr.key]
            case ir.Ref(name=name):
                return self.equations[name]
            case ir.Select():
                return self.choice(expr)
            case ir.Apply():
                return self.apply(expr)
            case ir.Latest() | ir.Prev():
                raise ValueError("streams are states before they are printed")
            case _:
                assert_never(expr)

    def apply(self, node: ir.Apply) -> Formula:
        flat = replace(self, is_flat=True)
        match node:
            case ir.Apply(mark=DefinitionMark() as mark):
                return call_formula(mark, [self.formula(argument) for argument in node.arguments])
            case ir.Apply(operator="and"):
                return self.conjunction(node)
            case ir.Apply(operator="div", arguments=(over, under)):
                return formulas.fraction(flat.formula(over), flat.formula(under), is_flat=self.is_flat)
            case ir.Apply(operator="min" | "max"):
                parts = [self.formula(each) for each in flattened(node, node.operator)]
            case ir.Apply(operator="pow", arguments=(base, exponent)):
                parts = [self.formula(base), flat.formula(exponent)]
            case _:
                parts = [self.formula(argument) for argument in node.arguments]
        return print_operation(Operation(node, parts, self.universe, self.formula))

    def conjunction(self, node: ir.Apply) -> Formula:
        """``a <= b and b < c`` as ``a <= b < c``."""
        tests = flattened(node, "and")
        parts: list[Formula] = []
        while tests:
            run = [tests.pop(0)]
            while tests and follows(run[-1], tests[0]):
                run.append(tests.pop(0))
            parts.append(self.compared(run))
        return formulas.chain(parts, [r"\land"] * (len(parts) - 1), Tightness.AND) if len(parts) > 1 else parts[0]

    def compared(self, tests: Sequence[ir.Expr]) -> Formula:
        """Comparisons of which each begins with what the last one ends with."""
        if len(tests) == 1:
            return self.formula(tests[0])
        pairs = [test for test in tests if isinstance(test, ir.Apply)]
        values = [pairs[0].arguments[0], *(pair.arguments[1] for pair in pairs)]
        signs = [COMPARISONS[pair.operator] for pair in pairs]
        return formulas.chain([self.formula(value) for value in values], signs, Tightness.COMPARE)

    def choice(self, node: ir.Select) -> Formula:
        """A choice with its conditions beside it; of 1 and 0 the indicator of the condition."""
        if is_number(node.then, 1) and is_number(node.otherwise, 0):
            inner = formulas.parenthesized(self.formula(node.condition), "[", "]")
            return Formula(rf"\mathbf{{1}}{inner.text}", inner.width + 0.6, Tightness.APPLIED, is_tall=inner.is_tall)
        flat = replace(self, is_flat=True)
        rows: list[tuple[Formula, Formula | None]] = []
        rest: ir.Expr = node
        while isinstance(rest, ir.Select):
            rows.append((flat.formula(rest.then), flat.formula(rest.condition)))
            rest = bare(rest.otherwise)
        return formulas.cases([*rows, (flat.formula(rest), None)])


def bare(node: ir.Expr) -> ir.Expr:
    """What is spread over a shape, without that."""
    while isinstance(node, ir.Apply) and node.operator == "fill":
        node = node.arguments[0]
    return node


def flattened(node: ir.Expr, operator: str) -> list[ir.Expr]:
    """The operands of an operator that is applied again and again."""
    if isinstance(node, ir.Apply) and node.operator == operator:
        return [part for argument in node.arguments for part in flattened(argument, operator)]
    return [node]


def follows(before: ir.Expr, after: ir.Expr) -> bool:
    """Whether two comparisons can be read as one chain."""
    return (
        isinstance(before, ir.Apply)
        and isinstance(after, ir.Apply)
        and {before.operator, after.operator} <= COMPARISONS.keys() - {"eq", "ne"}
        and before.arguments[1] == after.arguments[0]
    )


def is_number(node: ir.Expr, value: float) -> bool:
    inner = bare(node)
    return isinstance(inner, ir.Literal) and not isinstance(inner.value, bool) and inner.value == value


def literal_formula(node: ir.Literal) -> Formula:
    """Numbers as in print, with powers of ten; other constants as words."""
    match node.value:
        case bool():
            return formulas.word("true" if node.value else "false")
        case str():
            return formulas.word(node.value)
        case tuple():
            return triples_formula(node.value)
        case _:
            return number_formula(node.spelling)


def triples_formula(triples: tuple[tuple[float, ...], ...]) -> Formula:
    texts = ["(" + ", ".join(f"{value:g}" for value in triple) + ")" for triple in triples]
    return Formula(", ".join(texts), 0.5 * sum(map(len, texts)))


SPECIAL_NUMBERS = {"inf": r"\infty", "pi": r"\pi"}


def number_formula(spelling: str) -> Formula:
    """A number as the spec spells it; ``3e-4`` is 3 times a power of ten."""
    if spelling.startswith("-"):
        return formulas.negative(number_formula(spelling[1:]))
    if spelling in SPECIAL_NUMBERS:
        return Formula(SPECIAL_NUMBERS[spelling], 1.0)
    digits, _, exponent = spelling.lower().partition("e")
    if not exponent:
        return Formula(digits, 0.5 * len(digits), opens=True)
    ten = Formula(f"10^{{{int(exponent)}}}", 1.0 + 0.4 * len(exponent), Tightness.POWER, opens=True)
    if float(digits) == 1:
        return ten
    return formulas.multiplied(Formula(digits, 0.5 * len(digits), opens=True), ten, sign=r"\cdot")


def operators_in(exprs: Sequence[ir.Expr]) -> Iterator[ir.Apply]:
    """All operators that are applied in expressions."""
    return (node for expr in exprs for node in ir.walk(expr) if isinstance(node, ir.Apply))


def is_broadcast(node: ir.Apply) -> bool:
    """Whether an operator is applied to tensors of several shapes."""
    return len({value.type.shape for value in node.arguments if is_tensor(value)}) > 1
