"""Shapes of equations that need each other through `prev`: the smallest that fit, held against all that could be."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optforge.compiler.driver import check_source
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolve import resolve_file
from optforge.compiler.frontend.resolved import RawProgram
from optforge.compiler.frontend.types.inference import Inference
from optforge.compiler.frontend.types.typecheck import check_program
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Dim, Kind, Phase, Shape, Type, Universe
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source

HEAD = "optimizer Small:\n    for matrix:\n"
SHAPES: list[Shape] = [(rows, cols) for rows in Dim for cols in Dim]
ONE, ROWS, COLS, _ = Dim


def spec(*equations: str) -> str:
    lines = [*equations, "weight <- weight - grad"]
    return HEAD + "".join(f"        {line}\n" for line in lines)


def shapes_of(text: str) -> dict[str, Shape] | set[str]:
    """The shape of each state, or the codes of what is wrong."""
    result = check_source(Source("small.opt", text))
    if result.program is None:
        return {each.code for each in result.diagnostics if each.severity == "error"}
    return {state.name: state.type.shape for state in result.program.declarations[0].rules[0].states}


GRAM = "l = ema(grad @ grad', 0.9)"


@pytest.mark.parametrize(
    ("equations", "name", "shape"),
    [
        ((GRAM, "q = eigenbasis(l) if t == 1 else qr(l @ prev(q))"), "q", (ROWS, ROWS)),
        ((GRAM, "q = qr(l @ prev(q)) if t > 1 else eigenbasis(l)"), "q", (ROWS, ROWS)),
        ((GRAM, "q = qr(l @ prev(q))"), "q", (ROWS, ROWS)),
        ((GRAM, "q = qr(prev(q)' @ l)"), "q", (ROWS, ROWS)),
        (("l = ema(m @ m', 0.9)", "m = ema(inverse_root(prev(l), 4) @ grad, 0.9)"), "l", (ROWS, ROWS)),
        (("l = ema(m' @ m, 0.9)", "m = ema(grad @ (prev(l) + 1e-8), 0.9)"), "l", (COLS, COLS)),
        (("m = 0.9 * prev(m) + n' * 2", "n = prev(m)' + 0 * grad'"), "m", (ROWS, COLS)),
        (("v = grad @ grad' @ prev(v, mean(grad, per=row))",), "v", (ROWS, ONE)),
        (("a = prev(b)", "b = prev(a) + 1"), "b", (ONE, ONE)),
        (("v = 0.9 * prev(v) + mean(grad^2, per=col)",), "v", (ONE, COLS)),
    ],
)
def test_shapes_are_found_from_what_is_known(equations, name, shape) -> None:
    used = f"weight <- weight - grad * norm({name})"
    text = HEAD + "".join(f"        {line}\n" for line in (*equations, used))
    found = shapes_of(text)
    assert isinstance(found, dict), found
    assert found[name] == shape


def test_a_single_value_of_the_data_is_never_stretched_to_fit_a_product() -> None:
    text = spec("s = 0.9 * prev(s) + norm(grad)", "u = s @ grad").replace("- grad", "- u")
    assert shapes_of(text) == {"E030"}


# All that could be

LEAVES = ("grad", "weight", "0.5", "mean(grad, per=row)", "mean(grad, per=col)")


FORMS = ("({0} @ {1})", "({0} @ {1}')", "({0} + {1})", "({0} if t == 1 else {1})", "qr({0})", "0.9 * {0}")


def expression(draw: st.DrawFn, names: str, depth: int) -> str:
    """Of states more often than of anything else: they make it hard."""
    kind = draw(st.integers(0, 4 if depth else 2))
    if kind < 2:
        return f"prev({draw(st.sampled_from(names))})"
    if kind == 2:
        return draw(st.sampled_from(LEAVES))
    form = draw(st.sampled_from(FORMS))
    return form.format(*(expression(draw, names, depth - 1) for _ in range(1 + form.count("{1}"))))


@st.composite
def systems(draw: st.DrawFn) -> list[tuple[str, str]]:
    names = "xy" if draw(st.booleans()) else "x"
    return [(name, expression(draw, names, 3)) for name in names]


def untyped(text: str) -> RawProgram:
    file, _ = parse_source(Source("small.opt", text))
    assert file is not None
    return resolve_file(file, None, Report())


def found_in(text: str) -> dict[str, Shape | None] | set[str]:
    """The shape of each equation, whether it is remembered or not, or the codes of what is wrong."""
    report = Report()
    step = check_program(untyped(text), report).declarations[0].rules[0].step
    if report.failed:
        return {each.code for each in report.diagnostics}
    return {equation.name: equation.value.type.shape for equation in step.equations}


def stretches(value: ir.Expr) -> bool:
    """Whether a value of the data is stretched where it is added or chosen."""
    for node in ir.walk(value):
        parts = ir.children(node) if isinstance(node, ir.Select) or getattr(node, "operator", "") == "add" else ()
        streams = [part.type.shape for part in parts if part.type.phase is Phase.STREAM]
        if any(shape != node.type.shape for shape in streams):
            return True
    return False


def all_that_fit(text: str) -> list[tuple[dict[str, Shape], bool]]:
    """Every choice with which each equation has the shape that its states have, and whether it stretches."""
    step = untyped(text).declarations[0].rules[0].step
    names = [equation.name for equation in step.equations]
    found = []
    for choice in product(SHAPES, repeat=len(names)):
        problems: list[object] = []
        given_shapes = zip(names, choice, strict=True)
        types = {ir.StreamRef("step", name): Type(Kind.NUMBER, shape, Phase.STREAM) for name, shape in given_shapes}
        inference = Inference("step", Universe.MATRIX, "matrix", types, {}, {}, problems.append)
        values = [inference.typed(equation.value) for equation in step.equations]
        if not problems and [value.type.shape for value in values] == list(choice):
            found.append((dict(zip(names, choice, strict=True)), any(map(stretches, values))))
    return found


def is_below(one: dict[str, Shape], other: dict[str, Shape]) -> bool:
    pairs = [(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)]
    return all(a is Dim.ONE or a is b for a, b in pairs)


@settings(max_examples=200, deadline=None)
@given(systems())
def test_what_is_found_is_the_smallest_of_all_that_fit(system) -> None:
    """What is refused fits in no way, in several ways, or only if a value of the data is stretched."""
    text = spec(*(f"{name} = {value}" for name, value in system))
    found, fitting = found_in(text), all_that_fit(text)
    if isinstance(found, dict):
        assert found in [shapes for shapes, _ in fitting]
        assert all(is_below(found, shapes) for shapes, is_stretched in fitting if not is_stretched)
    else:
        assert len(fitting) != 1 or fitting[0][1], (found, fitting)
