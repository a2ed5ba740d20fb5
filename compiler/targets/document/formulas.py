"""Formulas: text in the part of LaTeX's mathematics that KaTeX knows as well, with what is needed to put it together.

A formula knows how tightly it binds, so that parentheses stand where they are needed; about how wide it is; and where
it may be broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

SCRIPT = 0.7  # the size of what is raised or lowered
NESTED = 0.75  # that of a fraction inside of another


class Tightness(IntEnum):
    """How tightly a formula binds, loosest first."""

    CASES = 0
    OR = 1
    AND = 2
    NOT = 3
    COMPARE = 4
    SUM = 5
    PRODUCT = 6
    NEGATIVE = 7
    APPLIED = 8  # whole as a factor, not as what is raised to a power: fractions, roots, functions of something
    POWER = 9
    ATOM = 10


class Mixing(Enum):
    """What a product does with its factors, where that has to be told apart."""

    NOTHING = "one of them is a number"
    ELEMENTS = "elements are multiplied"
    MATRICES = "matrices are"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a formula before which a line may be broken, with the sign that stands before it."""

    sign: str
    formula: Formula


@dataclass(frozen=True, slots=True)
class Formula:
    """Text of mathematics.

    Attributes:
        text: as LaTeX has it.
        width: about how wide it is, in em.
        tightness: how tightly it binds.
        pieces: what a sum or product is made of; empty for what must stay in one line.
        opens: whether it begins with a digit, which may not follow on another factor.
        closes: whether it ends in a word, which would seem to be applied to what is in parentheses.
        is_word: whether it begins with one.
        is_tall: whether it is higher than a line.
        mixes: what a product multiplies.
    """

    text: str
    width: float
    tightness: Tightness = Tightness.ATOM
    pieces: tuple[Piece, ...] = ()
    opens: bool = False
    closes: bool = False
    is_word: bool = False
    is_tall: bool = False
    mixes: Mixing = Mixing.NOTHING


def parenthesized(inner: Formula, left: str = "(", right: str = ")") -> Formula:
    """The formula in parentheses that are as high as it is."""
    if inner.is_tall:
        text = rf"\left{left} {inner.text} \right{right}"
    else:
        left, right = (side + " " * side[-1].isalpha() for side in (left, right))
        text = f"{left}{inner.text}{right}" if right[0] != "\\" else f"{left}{inner.text} {right}"
    return Formula(text.rstrip(), inner.width + 0.8, is_tall=inner.is_tall)


def at_least(inner: Formula, tightness: Tightness) -> Formula:
    """The formula, in parentheses where it binds less tightly."""
    return inner if inner.tightness >= tightness else parenthesized(inner)


def infix(left: Formula, sign: str, right: Formula, tightness: Tightness, width: float = 1.6) -> Formula:
    """Two formulas with a sign between them, in parentheses where they bind no tighter."""
    one, two = at_least(left, tightness), at_least(right, Tightness(tightness + 1))
    return Formula(
        f"{one.text} {sign} {two.text}", one.width + two.width + width, tightness, is_tall=one.is_tall or two.is_tall
    )


def chain(parts: Sequence[Formula], signs: Sequence[str], tightness: Tightness) -> Formula:
    """``a <= b < c``: several formulas with a sign between any two."""
    whole = [at_least(part, Tightness(tightness + 1)) for part in parts]
    text = whole[0].text + "".join(f" {sign} {part.text}" for sign, part in zip(signs, whole[1:], strict=True))
    width = sum(part.width for part in whole) + 1.6 * len(signs)
    return Formula(text, width, tightness, is_tall=any(part.is_tall for part in whole))


def joined(pieces: Iterable[Piece], tightness: Tightness) -> Formula:
    """A sum or product of pieces."""
    made = tuple(pieces)
    text = " ".join(f"{piece.sign} {piece.formula.text}".strip() for piece in made)
    first, last = made[0].formula, made[-1].formula
    return Formula(
        text, width_of(made), tightness, made, first.opens, last.closes, first.is_word,
        any(piece.formula.is_tall for piece in made),
    )  # fmt: skip


SIGN_WIDTHS = {"": 0.15, r"\,": 0.2, "+": 1.4, "-": 1.4, r"\cdot": 0.9, r"\odot": 1.4}


def width_of(pieces: Sequence[Piece]) -> float:
    return sum(piece.formula.width + SIGN_WIDTHS.get(piece.sign, 1.6) for piece in pieces)


def pieces_of(formula: Formula, tightness: Tightness, least: Tightness) -> tuple[Piece, ...]:
    """The pieces of a formula that is a sum, or product, itself; else the formula as one."""
    if formula.tightness is tightness and formula.pieces:
        return formula.pieces
    return (Piece("", at_least(formula, least)),)


def unsigned(formula: Formula) -> Formula:
    """What may follow on a sign: in parentheses where it begins with one itself."""
    return parenthesized(formula) if formula.text.startswith("-") else formula


def added(left: Formula, right: Formula) -> Formula:
    first, *others = pieces_of(unsigned(right), Tightness.SUM, Tightness.PRODUCT)
    before = pieces_of(left, Tightness.SUM, Tightness.SUM)
    return joined((*before, Piece("+", first.formula), *others), Tightness.SUM)


def subtracted(left: Formula, right: Formula) -> Formula:
    taken = unsigned(at_least(right, Tightness.PRODUCT))
    return joined((*pieces_of(left, Tightness.SUM, Tightness.SUM), Piece("-", taken)), Tightness.SUM)


def multiplied(left: Formula, right: Formula, *, sign: str = "") -> Formula:
    """A product: side by side, or with a dot where that could be read as something else."""
    first, *others = pieces_of(unsigned(right), Tightness.PRODUCT, Tightness.APPLIED)
    before = pieces_of(left, Tightness.PRODUCT, Tightness.NEGATIVE)
    last = before[-1].formula
    looks_applied = last.closes and (first.formula.is_word or first.formula.text.startswith(("(", r"\left(")))
    if not sign and (first.formula.opens or looks_applied):
        sign = r"\cdot"
    elif not sign and (last.closes or first.formula.is_word):
        sign = r"\,"
    mixes = left.mixes if left.mixes is not Mixing.NOTHING else right.mixes
    return replace(joined((*before, Piece(sign, first.formula), *others), Tightness.PRODUCT), mixes=mixes)


def negative(inner: Formula) -> Formula:
    whole = at_least(inner, Tightness.APPLIED)
    return Formula(f"-{whole.text}", whole.width + 0.8, Tightness.NEGATIVE, is_tall=whole.is_tall, closes=whole.closes)


def fraction(over: Formula, under: Formula, *, is_flat: bool = False) -> Formula:
    """A quotient, with a bar; or with a stroke, where there is little room."""
    if is_flat:
        one, two = at_least(over, Tightness.PRODUCT), at_least(under, Tightness.APPLIED)
        return Formula(f"{one.text} / {two.text}", one.width + two.width + 0.6, Tightness.PRODUCT)
    width = max(over.width, under.width) * NESTED + 0.4
    return Formula(rf"\frac{{{over.text}}}{{{under.text}}}", width, Tightness.APPLIED, is_tall=True)


def power(base: Formula, exponent: Formula, mark: str = "") -> Formula:
    """A power; the mark tells that of each element from that of a matrix."""
    whole = at_least(base, Tightness.ATOM)
    text = f"{whole.text}^{{{mark} {exponent.text}}}" if mark else f"{whole.text}^{{{exponent.text}}}"
    width = whole.width + SCRIPT * (exponent.width + (0.8 if mark else 0))
    return Formula(text, width, Tightness.POWER, opens=whole.opens, is_tall=whole.is_tall)


def root(inner: Formula) -> Formula:
    return Formula(rf"\sqrt{{{inner.text}}}", inner.width + 0.9, Tightness.APPLIED, is_tall=inner.is_tall)


BARE = (r"\exp", r"\log", r"\tanh", r"\cos", r"\sin", r"\det")  # often written without parentheses


def applied(function: str, width: float, arguments: Sequence[Formula]) -> Formula:
    """A function of something."""
    text = ", ".join(argument.text for argument in arguments)
    inner = Formula(
        text,
        sum(argument.width for argument in arguments) + 0.6 * (len(arguments) - 1),
        is_tall=any(argument.is_tall for argument in arguments),
    )
    whole = parenthesized(inner)
    tightness = Tightness.APPLIED if function in BARE else Tightness.ATOM
    return Formula(f"{function}{whole.text}", width + whole.width, tightness, is_tall=whole.is_tall)


def cases(rows: Sequence[tuple[Formula, Formula | None]]) -> Formula:
    """Values with their conditions; that of the last is None."""
    lines = [
        rf"{value.text} & \text{{if }} {condition.text}" if condition else rf"{value.text} & \text{{otherwise}}"
        for value, condition in rows
    ]
    text = r"\begin{cases} " + r" \\ ".join(lines) + r" \end{cases}"
    conditions = max(condition.width + 1.2 if condition else 4.4 for _, condition in rows)
    width = max(value.width for value, _ in rows) * NESTED + conditions + 2.2
    return Formula(text, width, Tightness.CASES, is_tall=True)


def word(text: str) -> Formula:
    """A word as it is, such as the value of a string."""
    return Formula(rf"\texttt{{{escape_word(text)}}}", 0.55 * len(text), closes=True, is_word=True)


def escape_word(text: str) -> str:
    """A word inside of ``\\mathrm`` or ``\\texttt``."""
    for sign in ("_", "#", "%", "&", "$", "{", "}"):
        text = text.replace(sign, "\\" + sign)
    return text
