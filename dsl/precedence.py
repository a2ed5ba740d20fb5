"""How tightly everything in an expression binds: one table, the reverse of the grammar's ladder of rules.

The printer asks it where parentheses are needed; a test holds it against the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from optforge.dsl import ast


class Level(IntEnum):
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

    level: Level
    left: Level
    right: Level
    text: str


INFIX = {
    "or": Infix(Level.OR, Level.OR, Level.AND, " or "),
    "and": Infix(Level.AND, Level.AND, Level.NOT, " and "),
    "+": Infix(Level.SUM, Level.SUM, Level.PRODUCT, " + "),
    "-": Infix(Level.SUM, Level.SUM, Level.PRODUCT, " - "),
    "*": Infix(Level.PRODUCT, Level.PRODUCT, Level.NEGATION, " * "),
    "/": Infix(Level.PRODUCT, Level.PRODUCT, Level.NEGATION, " / "),
    "@": Infix(Level.PRODUCT, Level.PRODUCT, Level.NEGATION, " @ "),
    "^": Infix(Level.POWER, Level.POSTFIX, Level.NEGATION, "^"),
}

# Unary operators: the level they make, which is also the least their operand must have.
PREFIX = {"-": (Level.NEGATION, "-"), "not": (Level.NOT, "not ")}

# What stands on either side of a comparison or of `in`.
COMPARED = Level.SUM


def level_of(expression: ast.Expression) -> Level:
    """The rung at which the grammar makes this node."""
    match expression:
        case ast.Select():
            return Level.SELECT
        case ast.Pipe():
            return Level.PIPE
        case ast.Binary(operator=operator):
            return INFIX[operator].level
        case ast.Comparison() | ast.Member():
            return Level.COMPARISON
        case ast.Unary(operator="'"):
            return Level.POSTFIX
        case ast.Unary(operator=operator):
            return PREFIX[operator][0]
        case _:
            return Level.ATOM
