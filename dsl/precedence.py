"""How tightly everything in an expression binds: one table, the reverse of the grammar's ladder of rules.

The printer asks it where parentheses are needed; a test holds it against the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from optforge.dsl import ast


class Precedence(IntEnum):
    """The rungs of the grammar, from ``expr`` to ``atom``."""

    SELECT = 1
    PIPE = 2
    OR = 3
    AND = 4
    NOT = 5
    COMPARISON = 6
    SUM = 7
    PRODUCT = 8
    NEGATION = 9
    POWER = 10
    POSTFIX = 11
    ATOM = 12


@dataclass(frozen=True, slots=True)
class Infix:
    """A binary operator: its own level, the least its operands must have to stand bare, and how it is spaced."""

    level: Precedence
    left: Precedence
    right: Precedence
    text: str


INFIX = {
    "or": Infix(Precedence.OR, Precedence.OR, Precedence.AND, " or "),
    "and": Infix(Precedence.AND, Precedence.AND, Precedence.NOT, " and "),
    "+": Infix(Precedence.SUM, Precedence.SUM, Precedence.PRODUCT, " + "),
    "-": Infix(Precedence.SUM, Precedence.SUM, Precedence.PRODUCT, " - "),
    "*": Infix(Precedence.PRODUCT, Precedence.PRODUCT, Precedence.NEGATION, " * "),
    "/": Infix(Precedence.PRODUCT, Precedence.PRODUCT, Precedence.NEGATION, " / "),
    "@": Infix(Precedence.PRODUCT, Precedence.PRODUCT, Precedence.NEGATION, " @ "),
    "^": Infix(Precedence.POWER, Precedence.POSTFIX, Precedence.NEGATION, "^"),
}

# Unary operators: the level they make, which is also the least their operand must have.
PREFIX = {"-": (Precedence.NEGATION, "-"), "not": (Precedence.NOT, "not ")}

# What stands on either side of a comparison or of `in`.
COMPARED = Precedence.SUM


def precedence_of(expression: ast.Expression) -> Precedence:
    """The rung at which the grammar makes this node."""
    match expression:
        case ast.Select():
            return Precedence.SELECT
        case ast.Pipe():
            return Precedence.PIPE
        case ast.Binary(operator=operator):
            return INFIX[operator].level
        case ast.Comparison() | ast.Member():
            return Precedence.COMPARISON
        case ast.Unary(operator="'"):
            return Precedence.POSTFIX
        case ast.Unary(operator=operator):
            return PREFIX[operator][0]
        case _:
            return Precedence.ATOM
