"""Operators on their arguments, and the kinds of rows by which they are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Operator
from optforge.compiler.ir.types import SCALAR, Dim, Universe
from optforge.compiler.targets.document import formulas
from optforge.compiler.targets.document.formulas import Formula, Tightness, parenthesized


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator on its arguments.

    Attributes:
        node: the operator with its arguments, types and settings.
        parts: the formulas of the arguments; of `min` and `max` those of all that are compared.
        universe: whether the rule knows matrices, or tensors of any shape, whose powers are those of elements.
        formula: prints a part of the node.
    """

    node: ir.Apply
    parts: Sequence[Formula]
    universe: Universe
    formula: Callable[[ir.Expr], Formula]

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.node.operator]

    @property
    def values(self) -> Sequence[Formula]:
        return self.parts[: self.operator.values]

    def setting(self, name: str) -> ir.Expr:
        """The argument of a parameter by its name."""
        return self.node.arguments[[parameter.name for parameter in self.operator.parameters].index(name)]

    def is_matrix(self, index: int = 0) -> bool:
        """Whether an argument is a matrix, so that a power could be that of a matrix."""
        is_wide = Dim.ONE not in (self.node.arguments[index].type.shape or SCALAR)
        return is_wide and self.universe is Universe.MATRIX

    @property
    def axis(self) -> str:
        value = self.setting("per")
        return str(value.value) if isinstance(value, ir.Literal) else "all"

    def below(self, *before: str) -> str:
        """What stands below a reduction: along which axis it goes."""
        parts = [*before, *([] if self.axis == "all" else [rf"\mathrm{{{self.axis}}}"])]
        return f"_{{{','.join(parts)}}}" if parts else ""


Row = Callable[[Operation], Formula]


def literal_value(node: ir.Expr) -> ir.Value | None:
    return node.value if isinstance(node, ir.Literal) else None


def is_tensor(node: ir.Expr) -> bool:
    return node.type.shape not in (SCALAR, None)


def operator_name(name: str) -> str:
    known = ("exp", "log", "tanh", "cos", "sin", "min", "max", "det", "sinh", "cosh", "tan", "arctan", "arcsin")
    return rf"\{name}" if name in known else rf"\operatorname{{{formulas.escape_word(name)}}}"


# Kinds of rows


def named(name: str) -> Row:
    """A function by its name, of all values."""

    def row(made: Operation) -> Formula:
        values = made.values
        return formulas.applied(operator_name(name), 0.55 * len(name), values)

    return row


def reduction(name: str) -> Row:
    """A function with the axis below it."""

    def row(made: Operation) -> Formula:
        values = made.values
        width = 0.55 * len(name) + (1.2 if made.axis != "all" else 0)
        return formulas.applied(operator_name(name) + made.below(), width, values)

    return row


def compared(sign: str) -> Row:
    return lambda made: formulas.infix(made.parts[0], sign, made.parts[1], Tightness.COMPARE)


def fence(left: str, right: str) -> Row:
    """Something between two signs."""
    return lambda made: parenthesized(made.parts[0], left, right)


def extreme(name: str) -> Row:
    """The smaller or larger of two or more values."""

    def row(made: Operation) -> Formula:
        return formulas.applied(rf"\{name}", 1.9, made.parts)

    return row
