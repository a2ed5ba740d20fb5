"""Lines of equations that are too long for a page, broken before the terms of a sum or the factors of a product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optforge.compiler.targets.document.formulas import Formula, Piece, Tightness, width_of

PAGE = 40.0  # the room for an equation inside of a loop, in em
INDENT = 1.0  # what a continued line is moved to the right by


@dataclass(frozen=True, slots=True)
class PrintedLine:
    """``left = right``, or an assignment."""

    left: Formula
    right: Formula
    sign: str = "="


def line_rows(line: PrintedLine) -> list[str]:
    """The rows of an equation, each but the first to be indented; what cannot be broken is one row, however wide."""
    return [" ".join(f"{piece.sign} {piece.formula.text}".strip() for piece in row) for row in rows_of(line)]


def widest_row(line: PrintedLine) -> float:
    """How much room the equation needs once it is broken."""
    rows = rows_of(line)
    return line.left.width + 1.6 + max(width_of(row) + INDENT * (number > 0) for number, row in enumerate(rows))


def rows_of(line: PrintedLine) -> list[list[Piece]]:
    """As many pieces in each row as it has room for."""
    room = PAGE - line.left.width - 1.6
    if line.right.width <= room or not line.right.pieces:
        return [[Piece("", line.right)]]
    rows: list[list[Piece]] = [[]]
    for piece in split_pieces(line.right.pieces, room - INDENT, line.right.tightness):
        if rows[-1] and width_of([*rows[-1], piece]) > room - INDENT * (len(rows) > 1):
            sign = piece.sign if piece.sign.strip(r"\,") else r"\cdot"
            rows.append([Piece(sign, piece.formula)])
        else:
            rows[-1].append(piece)
    return rows


def split_pieces(pieces: Sequence[Piece], room: float, tightness: Tightness) -> Iterator[Piece]:
    """Terms; those that fill more than a line as their factors."""
    for piece in pieces:
        inner = piece.formula
        is_product = inner.tightness is Tightness.PRODUCT and tightness is Tightness.SUM
        if inner.width > room and inner.pieces and is_product:
            first, *others = inner.pieces
            yield Piece(piece.sign, first.formula)
            yield from others
        else:
            yield piece
