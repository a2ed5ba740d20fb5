"""Formulas mean what they are printed from: they are read back, and all operators have a printed form."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.operators import OPERATORS, ROWS, Operator, Want
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import CONSTANT, TENSOR, Kind, Universe
from optforge.compiler.targets.document.expressions import Scribe, number_formula
from optforge.compiler.targets.document.notation import NoNotation
from optforge.compiler.targets.document.symbols import Symbols, candidates
from tests.targets.document.katex import require_katex
from tests.targets.document.reading import Formulas

HYPERS = {"beta1": 0.9, "lr": 0.5, "weight_decay": 2.0, "long_name": 3.0, "m": -1.5, "warm": 0.25}
KEYS = {name: (ir.InputSource.HYPER, name) for name in HYPERS}


def hyper_scribe() -> tuple[Scribe, dict[str, float]]:
    symbols = Symbols()
    chosen = {name: symbols.choose(candidates(name)).formula() for name in HYPERS}
    values = {formula.text: HYPERS[name] for name, formula in chosen.items()}
    return Scribe({KEYS[name]: formula for name, formula in chosen.items()}, {}, Universe.MATRIX), values


TWO = ("add", "sub", "mul", "div", "pow", "min", "max", "mod", "add", "mul", "sub", "div")
ONE = ("neg", "sqrt", "exp", "log1p", "abs", "sign", "tanh", "floor", "cos", "neg", "round")
COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")


def grow(dice: random.Random, depth: int) -> ir.Expr:
    """A random expression of numbers."""
    if depth == 0 or dice.random() < 0.1:
        return leaf(dice)
    match dice.randrange(8):
        case 0 | 1 | 2 | 3 | 4:
            return ir.Apply(dice.choice(TWO), (grow(dice, depth - 1), grow(dice, depth - 1)), type=CONSTANT)
        case 5 | 6:
            return ir.Apply(dice.choice(ONE), (grow(dice, depth - 1),), type=CONSTANT)
        case _:
            otherwise = grow(dice, depth - 1)
            return ir.Select(condition(dice, depth - 1), grow(dice, depth - 1), otherwise, type=CONSTANT)


def leaf(dice: random.Random) -> ir.Expr:
    if dice.random() < 0.4:
        name = dice.choice(list(HYPERS))
        return ir.Input(name, ir.InputSource.HYPER, type=CONSTANT)
    spelling = dice.choice(["0", "1", "2", "0.05", "1e-3", "3e-4", "-2", "-1e-8", "10", "2.5e2", "pi"])
    value = math.pi if spelling == "pi" else float(spelling)
    return ir.Literal(value, spelling, type=CONSTANT)


def condition(dice: random.Random, depth: int) -> ir.Expr:
    kind = replace(CONSTANT, kind=Kind.BOOLEAN)
    match dice.randrange(6):
        case 0 if depth:
            return ir.Apply("not", (condition(dice, depth - 1),), type=kind)
        case 1 | 2 if depth:
            parts = condition(dice, depth - 1), condition(dice, depth - 1)
            return ir.Apply(dice.choice(["and", "or"]), parts, type=kind)
        case 3:
            middle = grow(dice, 1)
            one, two = (ir.Apply("lt", pair, type=kind) for pair in ((leaf(dice), middle), (middle, leaf(dice))))
            return ir.Apply("and", (one, two), type=kind)
        case _:
            return ir.Apply(dice.choice(COMPARED), (grow(dice, max(depth - 1, 0)), leaf(dice)), type=kind)


@pytest.mark.parametrize("is_flat", [False, True])
def test_printed_arithmetic_reads_back(is_flat: bool) -> None:
    """Of random expressions, with bars and with strokes: parentheses stand where they are needed."""
    scribe, values = hyper_scribe()
    dice, compared = random.Random(1), 0
    for _ in range(1500):
        expr = grow(dice, dice.randrange(1, 6))
        expected = evaluate_constant(expr, HYPERS)
        assert isinstance(expected, float | int)
        formula = replace(scribe, is_flat=is_flat).formula(expr)
        found = Formulas(values).value(formula.text)
        if math.isfinite(expected) and abs(expected) < 1e12:
            compared += 1
            close = math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
            assert close or is_unstable(expr), f"{expression_text(expr)}\n{formula.text}\n{found} and not {expected}"
        require_katex(formula.text)
    assert compared > 700


def is_unstable(expr: ir.Expr) -> bool:
    """Whether rounding decides the value: the printed form may multiply and add in another order."""

    def nudged(node: ir.Expr, factor: float) -> ir.Expr:
        if isinstance(node, ir.Literal) and isinstance(node.value, float):
            return replace(node, value=node.value * factor)
        return ir.map_children(lambda child: nudged(child, factor), node)

    value, *others = (evaluate_constant(nudged(expr, factor), HYPERS) for factor in (1, 1 + 1e-12, 1 - 1e-12))
    assert isinstance(value, float | int)
    return any(not math.isclose(value, each, rel_tol=1e-7, abs_tol=1e-10) for each in others)  # type: ignore


def arguments_of(row: Operator) -> tuple[ir.Expr, ...]:
    """Arguments of the kinds that an operator takes."""
    made: list[ir.Expr] = []
    for parameter in row.parameters:
        match parameter.want:
            case Want.AXIS:
                made.append(ir.Literal("row", "row", type=replace(CONSTANT, kind=Kind.AXIS)))
            case Want.TEXT:
                made.append(ir.Literal("newton_schulz", '"newton_schulz"', type=replace(CONSTANT, kind=Kind.TEXT)))
            case Want.TRIPLES:
                made.append(ir.Literal((), "()", type=replace(CONSTANT, kind=Kind.TRIPLES)))
            case Want.NUMBER | Want.RANK | Want.SCALAR:
                made.append(ir.Literal(2.0, "2", type=CONSTANT))
            case Want.RULE:
                made.append(ir.Literal("all", "all", type=replace(CONSTANT, kind=Kind.TEXT)))
            case _:
                made.append(ir.Input("weight", ir.InputSource.STREAM, type=TENSOR))
    return tuple(made)


SPECIAL = ("call",)  # printed by what it calls


@pytest.mark.parametrize(
    "row", [row for row in OPERATORS.values() if row.name not in SPECIAL], ids=lambda row: row.name
)
def test_every_operator_has_a_printed_form(row: Operator) -> None:
    """One without: give it a row in `compiler/targets/document/notation.py`."""
    scribe = Scribe({ir.WEIGHT: Symbols().choose(candidates("w")).formula()}, {}, Universe.MATRIX)
    formula = scribe.formula(ir.Apply(row.name, arguments_of(row), type=TENSOR))
    require_katex(formula.text)
    assert formula.width > 0


@pytest.mark.parametrize("change", [{"symbol": "?"}, {"across": next(r.across for r in ROWS if r.name == "rank")}])
def test_an_operator_without_a_printed_form_is_found(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = replace(OPERATORS["tanh"], name="strange", **change)  # type: ignore[arg-type]
    monkeypatch.setattr("optforge.compiler.targets.document.operations.OPERATORS", {**OPERATORS, "strange": new})
    with pytest.raises(NoNotation, match="`strange` needs a row in"):
        test_every_operator_has_a_printed_form(new)


def test_every_elementwise_function_is_printed_by_its_name() -> None:
    new = replace(OPERATORS["tanh"], name="asinh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optforge.compiler.targets.document.operations.OPERATORS", {**OPERATORS, "asinh": new})
        scribe = Scribe({ir.WEIGHT: Symbols().choose(candidates("w")).formula()}, {}, Universe.MATRIX)
        node = ir.Apply("asinh", (ir.Input("weight", ir.InputSource.STREAM, type=TENSOR),), type=TENSOR)
        assert scribe.formula(node).text == r"\operatorname{asinh}(w)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lr", r"\eta"),
        ("beta1", r"\beta_{1}"),
        ("eps", r"\varepsilon"),
        ("weight_decay", r"\lambda"),
        ("rest_beta1", r"\beta_{1,\mathrm{rest}}"),
        ("rest_eps", r"\varepsilon_{\mathrm{rest}}"),
        ("q_l", r"q_{\ell}"),
        ("rest_ratio", r"\mathrm{rest\_ratio}"),
        ("z_clip_alpha", r"\alpha_{z,\mathrm{clip}}"),
        ("update", r"\mathrm{update}"),
        ("x2", r"x_{2}"),
    ],
)
def test_names_become_symbols(name: str, text: str) -> None:
    assert Symbols().choose(candidates(name)).text == text


def test_no_two_names_have_one_symbol() -> None:
    names = ["lr", "eta", "weight_decay", "lam", "lambda", "eps", "epsilon", "beta1", "beta_1", "l", "ell", "x1", "x_1"]
    symbols = Symbols()
    texts = [symbols.choose(candidates(name)).text for name in [*names, *names]]
    assert len({*texts}) == len(texts)


def test_a_hyper_is_no_state_of_some_step() -> None:
    """`d0` beside a state `d`, whose first value is d with the index 0."""
    assert Symbols(["d"]).choose(candidates("d0")).text == r"\mathrm{d0}"


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("1e-8", "10^{-8}"),
        ("3.6e-4", r"3.6 \cdot 10^{-4}"),
        ("-0.5", "-0.5"),
        ("inf", r"\infty"),
        ("2E3", r"2 \cdot 10^{3}"),
    ],
)
def test_numbers_are_printed_as_numbers(spelling: str, text: str) -> None:
    assert number_formula(spelling).text == text
