"""Equations that no line has room for, with names for their largest parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import Kind
from optforge.compiler.targets.document.expressions import Scribe
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import PAGE, PrintedLine, widest_row
from optforge.compiler.targets.document.symbols import Symbol

LEAST = 6.0  # parts that are narrower than this are not worth a name, in em
PART = EquationName.of("part")


def part_symbols() -> Iterator[Symbol]:
    """Letters for parts; no end of them."""
    yield from map(Symbol, "abcpqxyz")
    number = 1
    while True:
        yield Symbol("a", (f"({number})",))
        number += 1


def fitting_lines(
    left: Formula, value: ir.Expr, sign: str, scribe: Scribe, named: Callable[[ir.Expr], Formula]
) -> Iterator[PrintedLine]:
    """``left = value`` in lines that a page has room for; ``named`` gives a part a symbol."""
    number = 0
    while widest_row(PrintedLine(left, scribe.formula(value), sign)) > PAGE:
        part = widest_part(value, scribe)
        if part is None:
            break
        number += 1
        name, symbol = PART.numbered(number), named(part)
        yield from fitting_lines(symbol, part, "=", scribe, named)
        scribe = replace(scribe, equations={**scribe.equations, name: symbol})
        value = put_name(value, part, ir.Ref(name, type=part.type))
    yield PrintedLine(left, scribe.formula(value), sign)


def widest_part(value: ir.Expr, scribe: Scribe) -> ir.Expr | None:
    """The widest of the parts that a line of their own has room for; None where all are narrow."""
    parts = [
        node
        for child in ir.children(value)
        for node in ir.walk(child)
        if isinstance(node, ir.Apply | ir.Select) and node.type.kind is Kind.NUMBER
    ]
    widths = [(scribe.formula(part).width, part) for part in parts]
    fitting = [(width, part) for width, part in widths if LEAST <= width <= PAGE - LEAST]
    return max(fitting, key=lambda each: each[0], default=(0.0, None))[1]


def put_name(value: ir.Expr, part: ir.Expr, name: ir.Ref) -> ir.Expr:
    """The expression with a name in the place of a part, wherever it has that."""
    return name if value == part else ir.map_children(lambda child: put_name(child, part, name), value)
