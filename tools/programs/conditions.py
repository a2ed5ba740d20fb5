"""Productions of conditions: on hypers and dimensions, on the step count, on the data."""

from __future__ import annotations

from optforge.compiler.ir.types import SCALAR, Phase, Shape
from optforge.dsl import ast
from tools.programs.elementwise import OFFSET
from tools.programs.grower import Grower, Production, Scope
from tools.programs.terms import Term, constant, elementwise, fits_in, name, plus, times

ORDERINGS = (">", "<", ">=", "<=")


def compare(grower: Grower, shape: Shape, depth: int) -> Term:
    """Two numbers compared, with an offset against ties."""
    left, right = grower.number(shape, depth), grower.number(grower.part_of(shape), depth - 1)
    node = ast.Comparison(left.node, ((grower.dice.pick(ORDERINGS), plus(right, OFFSET).node),))
    return elementwise(node, 1, left, right)


def between(grower: Grower, shape: Shape, depth: int) -> Term:
    middle = grower.number(shape, depth)
    node = ast.Comparison(
        ast.Unary("-", ast.Number("0.371")), (("<", middle.node), (grower.dice.pick(("<", "<=")), ast.Number("0.817")))
    )
    return elementwise(node, 1, middle)


def discrete(grower: Grower, shape: Shape, depth: int) -> Term:
    """Whole numbers, which may be compared for equality."""
    term = grower.number(shape, depth)
    if grower.dice.chance(50):
        whole = grower.call("sign", plus(term, OFFSET).node)
    else:
        whole = grower.call("floor", plus(times(term, constant("2.3")), OFFSET).node)
    node = ast.Comparison(whole, ((grower.dice.pick(("==", "!=")), ast.Number(grower.dice.pick(("1", "0")))),))
    return elementwise(node, 1, term)


def on_steps(grower: Grower, shape: Shape, depth: int) -> Term:
    t, number = name("t"), ast.Number(grower.dice.pick(("1", "2", "3")))
    period = ast.Call(ast.Identifier("mod"), (t, grower.setting("period")))
    forms: tuple[tuple[ast.Expression, str], ...] = ((t, "=="), (period, "=="), (t, ">"), (t, "<="), (period, "!="))
    left, symbol = grower.dice.pick(forms)
    return Term(ast.Comparison(left, ((symbol, number),)), SCALAR, 1, Phase.STEP)


def on_hypers(grower: Grower, shape: Shape, depth: int) -> Term:
    """Flags, strings, numbers that stay while the hypers do."""
    forms: list[ast.Expression] = []
    for text, values in grower.scope.choices:
        quoted = tuple(ast.Text(value) for value in values)
        forms.append(ast.Comparison(name(text), ((grower.dice.pick(("==", "!=")), quoted[0]),)))
        forms.append(ast.Member(name(text), ast.Tuple(quoted[:2])))
    decay = grower.setting("decay")
    forms.append(ast.Comparison(decay, ((grower.dice.pick(ORDERINGS), ast.Number("0.65")),)))
    forms.append(ast.Member(grower.setting("period"), ast.Tuple((ast.Number("2"), ast.Number("4")))))
    forms.append(ast.Boolean(grower.dice.chance(50)))
    if grower.scope.is_matrix and grower.scope.data:
        forms.append(ast.Comparison(name("rows"), ((grower.dice.pick(ORDERINGS), name("cols")),)))
    return Term(grower.dice.pick(forms), SCALAR, 1, Phase.CONSTANT)


def use_named(grower: Grower, shape: Shape, depth: int) -> Term:
    variables = [v for v in grower.scope.variables if v.is_boolean and fits_in(v.shape, shape)]
    return grower.dice.pick(variables).term()


def has_named(scope: Scope, shape: Shape) -> bool:
    return any(v.is_boolean and fits_in(v.shape, shape) for v in scope.variables)


def combine(grower: Grower, shape: Shape, depth: int) -> Term:
    left, right = grower.condition(shape, depth - 1), grower.condition(grower.part_of(shape), depth - 1)
    node = ast.Binary(grower.dice.pick(("and", "or")), left.node, right.node)
    return elementwise(node, 1, left, right)


def opposite(grower: Grower, shape: Shape, depth: int) -> Term:
    term = grower.condition(shape, depth)
    return elementwise(ast.Unary("not", term.node), 1, term)


def equal_conditions(grower: Grower, shape: Shape, depth: int) -> Term:
    left, right = grower.condition(shape, depth - 1), grower.condition(SCALAR, depth - 1)
    node = ast.Comparison(left.node, ((grower.dice.pick(("==", "!=")), right.node),))
    return elementwise(node, 1, left, right)


def is_deep(scope: Scope, shape: Shape) -> bool:
    return True


CONDITIONS = (
    Production(6, on_hypers),
    Production(6, on_steps, lambda scope, shape: scope.has_steps),
    Production(8, compare),
    Production(3, between),
    Production(2, discrete),
    Production(8, use_named, has_named),
    Production(3, combine),
    Production(2, opposite),
    Production(1, equal_conditions),
)
