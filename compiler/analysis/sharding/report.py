"""A placement in words and numbers: what a rank sends for a matrix, what is added up, what the owner keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from optforge.compiler.analysis.polynomials import Polynomial, size_of
from optforge.compiler.analysis.sharding.dataflow import Tensor
from optforge.compiler.analysis.sharding.placement import Placement
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName, one_word
from optforge.compiler.ir.printer import expression_text

FLOAT64 = 8  # bytes of a partial sum


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """What happens on sharded parameters.

    Attributes:
        kind: "local", "sums" or "whole".
        rounds: how often ranks wait for others.
        sent: what goes to the owner of a matrix.
        returned: what comes back.
        reduced: what is combined over all shards.
        owned: the states that only the owner keeps.
        bytes: what leaves a rank for one matrix, on average: W ranks, e bytes a number.
    """

    kind: str
    rounds: int
    sent: tuple[str, ...]
    returned: tuple[str, ...]
    reduced: tuple[str, ...]
    owned: tuple[str, ...]
    bytes: str

    def __str__(self) -> str:
        if self.kind == "local":
            return self.kind
        parts = [("down", self.sent), ("up", self.returned), ("reduced", self.reduced), ("owned", self.owned)]
        shown = [f"{word} {', '.join(names)}" for word, names in parts if names]
        rounds = f"{self.rounds} round{'s' if self.rounds != 1 else ''}"
        return f"{self.kind}, {rounds}: {'; '.join(shown)}"


def report_of(placement: Placement) -> PlacementReport:
    down, up = placement.values(placement.down), placement.values(placement.up)
    reduced = placement.values(placement.reductions)
    return PlacementReport(
        "local" if placement.is_local else "whole" if placement.is_whole else "sums",
        placement.rounds,
        tuple(map(shown, down)),
        tuple(map(shown, up)),
        tuple(map(shown, reduced)),
        tuple(sorted(placement.owned)),
        bytes_text(placement, [*down, *up], reduced),
    )


def numbers_sent(placement: Placement) -> Polynomial:
    """How many numbers of a matrix travel in a step: to its owner, back, and as parts of sums over its shards."""
    total = Polynomial()
    for value in placement.values((*placement.down, *placement.up, *placement.reductions)):
        total += size_of(value.shape)
    return total


def shown(value: Tensor) -> str:
    """What the value is called, or how it is computed, with names as generated code has them."""
    name = value.expr.name if isinstance(value.expr, ir.Input) else value.name
    return one_word(name) if name else expression_text(ir.transform(in_one_word, value.expr))


def in_one_word(node: ir.Expr) -> ir.Expr:
    match node:
        case ir.Ref(name=name):
            return replace(node, name=EquationName.of(one_word(name)))
        case ir.Input(name=name):
            return replace(node, name=one_word(name))
        case _:
            return node


def bytes_text(placement: Placement, moved: Iterable[Tensor], reduced: Iterable[Tensor]) -> str:
    """Shards go to an owner and back, copies from it to all, and partial sums around all ranks, twice."""
    shards, copies, sums = Polynomial(), Polynomial(), Polynomial()
    for value in moved:
        if placement.cut.dim in value.shape:
            shards += size_of(value.shape)
        else:
            copies += size_of(value.shape)
    for value in reduced:
        sums += size_of(value.shape)
    terms = [(shards, "e * (W - 1) / W^2"), (copies, "e * (W - 1) / W"), (sums, f"{2 * FLOAT64} * (W - 1) / W")]
    return " + ".join(f"({size}) * {factor}" for size, factor in terms if size.terms) or "0"
