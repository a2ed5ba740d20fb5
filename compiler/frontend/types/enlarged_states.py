"""Choices of two shapes that make a state larger than either branch needs, and a warning of each.

``a if rows >= cols else b`` of a column and a row is a whole matrix: one branch is spread over the other. As a step in
between that costs little; what is remembered is kept for every parameter, be its matrix wide or tall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optforge.compiler.frontend.liveness import raw_machines
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawDeclaration, RawRule
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Dim
from optforge.dsl import errors
from optforge.dsl.source import Span


def warn_enlarged(raw: RawDeclaration, report: Report) -> None:
    """A choice to which alone a state owes its size, once for each place in the text."""
    told: set[Span] = set()
    for rule in raw.rules:
        for stream, choice in enlarged_states(rule):
            if choice.span not in told and choice.span.source is raw.span.source:
                told.add(choice.span)
                whole, then, otherwise = map(size_text, (choice, choice.then, choice.otherwise))
                report(errors.enlarged_state(stream.name.root.shown, whole, then, otherwise, choice.span))


def enlarged_states(rule: RawRule) -> Iterator[tuple[ir.StreamRef, ir.Select]]:
    """What is remembered at a size that only a choice of two shapes has, with the choice."""
    values = {
        ir.StreamRef(owner, equation.name): equation.value
        for owner, function in raw_machines(rule).items()
        for equation in function.equations
    }
    remembered: dict[ir.StreamRef, None] = {}
    for owner, function in raw_machines(rule).items():
        for node in ir.nodes(function):
            if isinstance(node, ir.Prev) and isinstance(node.stream, ir.Ref):
                remembered[ir.StreamRef(owner, node.stream.name)] = None
            elif isinstance(node, ir.Latest):
                remembered[node.stream] = None
    for stream in remembered:
        for choice in choices_behind(stream, values):
            yield stream, choice


def choices_behind(stream: ir.StreamRef, values: Mapping[ir.StreamRef, ir.Expr]) -> list[ir.Select]:
    """The choices that make a stream as large as it is; none where anything else does so, too."""
    whole = values[stream].type.shape
    found: list[ir.Select] = []
    seen: set[ir.StreamRef] = set()
    waiting: list[tuple[ir.Expr, str]] = [(ir.Latest(stream), stream.machine)]  # with whose equations it names
    while waiting:
        match waiting.pop():
            case (ir.Prev(stream=inner), owner):
                waiting.append((inner, owner))
            case (ir.Ref() | ir.Latest() as expr, owner):
                name = expr.stream if isinstance(expr, ir.Latest) else ir.StreamRef(owner, expr.name)
                if name not in seen:
                    seen.add(name)
                    waiting.append((values[name], name.machine))
            case (ir.Select(condition=condition) as expr, _) if condition.type.is_scalar_phase and is_of_two_shapes(
                expr
            ):
                found.append(expr)
            case (expr, owner):
                parts = [(part, owner) for part in ir.children(expr) if part.type.shape == whole]
                if not parts:
                    return []
                waiting += parts
    return found


def is_of_two_shapes(choice: ir.Select) -> bool:
    return choice.type.shape not in (None, choice.then.type.shape, choice.otherwise.type.shape)


def size_text(value: ir.Expr) -> str:
    """How many numbers a value has: ``rows * cols``."""
    return " * ".join(side.value for side in value.type.shape or () if side is not Dim.ONE) or "1"
