"""Productions of scalars at the edges of arithmetic: quotients by 0, roots of negative numbers, powers too large.

Some stand behind a guard, often under a name that nothing else reads; the others have a small value wherever they are
computed, though on the way to it there is an infinity or a NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optforge.compiler.ir.types import SCALAR, Phase, Shape
from optforge.dsl import ast
from tools.programs.grower import Grower, Production, Scope
from tools.programs.terms import Term, call_node, literal, name

T, ONE, HALF = ast.Name("t"), ast.Number("1"), ast.Number("0.5")
INFINITE = ast.Number("inf")
NEVER_MET = ast.Number("0.371")  # by what edges are compared with


@dataclass(frozen=True)
class Edge:
    """A scalar that has a value of at most ``bound`` where the guard holds."""

    node: ast.Expression
    guard: ast.Expression
    bound: float
    phase: Phase


def over(left: ast.Expression, right: ast.Expression) -> ast.Expression:
    return ast.Binary("/", left, right)


def minus(left: ast.Expression, right: ast.Expression) -> ast.Expression:
    return ast.Binary("-", left, right)


def compare(left: ast.Expression, symbol: str, right: ast.Expression) -> ast.Expression:
    return ast.Comparison(left, ((symbol, right),))


def edge(grower: Grower) -> Edge:
    """Something that has no finite value everywhere, and where it has one."""
    forms: list[Callable[[Grower], Edge]] = [of_a_hyper]
    forms += [of_the_step, of_the_step] if grower.scope.has_steps else []
    forms += [of_a_dimension] if grower.scope.is_matrix and grower.scope.data and not grower.scope.is_smooth else []
    return grower.dice.pick(forms)(grower)


def of_a_hyper(grower: Grower) -> Edge:
    wait, cap = grower.setting("wait"), grower.setting("cap")
    is_positive = compare(wait, ">", ast.Number("0"))
    forms = [
        Edge(over(ONE, wait), is_positive, 2, Phase.CONSTANT),
        Edge(ast.Binary("^", wait, literal("-1.5")), is_positive, 3, Phase.CONSTANT),
        Edge(call_node("log", wait), is_positive, 1, Phase.CONSTANT),
        Edge(minus(cap, HALF), compare(cap, "<", INFINITE), 2, Phase.CONSTANT),
    ]
    if grower.scope.has_steps:
        forms += [
            Edge(over(T, wait), is_positive, 20, Phase.STEP),
            Edge(call_node("mod", T, wait), is_positive, 2, Phase.STEP),
            Edge(call_node("floor", over(T, wait)), is_positive, 20, Phase.STEP),
            Edge(call_node("cos", over(T, wait)), is_positive, 1, Phase.STEP),
        ]
    return grower.dice.pick(forms)


def of_the_step(grower: Grower) -> Edge:
    start = ast.Number(grower.dice.pick(("1", "2", "3")))
    passed = minus(T, start)
    is_later, decay = compare(T, ">", start), grower.setting("decay")
    forms = [
        Edge(over(ONE, passed), is_later, 1, Phase.STEP),
        Edge(call_node("log", passed), is_later, 3, Phase.STEP),
        Edge(call_node("log1p", minus(passed, ONE)), is_later, 3, Phase.STEP),
        Edge(call_node("sqrt", passed), compare(T, ">=", start), 4, Phase.STEP),
        Edge(ast.Binary("^", passed, HALF), compare(start, "<=", T), 4, Phase.STEP),
        Edge(over(ONE, minus(ONE, ast.Binary("^", decay, passed))), is_later, 10, Phase.STEP),
        Edge(call_node("mod", T, passed), ast.Unary("not", compare(T, "<=", start)), 8, Phase.STEP),
    ]
    return grower.dice.pick(forms)


def of_a_dimension(grower: Grower) -> Edge:
    size, least = name(grower.dice.pick(("rows", "cols"))), ast.Number(grower.dice.pick(("1", "3")))
    forms = [
        Edge(over(ONE, minus(size, least)), compare(size, ">", least), 1, Phase.CONSTANT),
        Edge(call_node("sqrt", minus(size, least)), compare(size, ">=", least), 3, Phase.CONSTANT),
    ]
    return grower.dice.pick(forms)


def guarded(grower: Grower, shape: Shape, depth: int) -> Term:
    """A choice of an edge where it has a value, under a name or as it is."""
    found = edge(grower)
    node: ast.Expression = found.node
    aside = grower.scope.aside
    if aside is not None and aside.names and grower.dice.chance(60):
        text = aside.names.pop(0)
        aside.bindings.append(ast.Binding(ast.Identifier(text), node))
        node = name(text)
    other = grower.setting("decay")
    if grower.dice.chance(30):
        opposite = ast.Unary("not", found.guard)
        return Term(ast.Select(opposite, other, node), SCALAR, max(found.bound, 1), found.phase)
    return Term(ast.Select(found.guard, node, other), SCALAR, max(found.bound, 1), found.phase)


def saturate(grower: Grower, shape: Shape, depth: int) -> Term:
    """A small value, whatever becomes of the edge."""
    found = edge(grower)
    x: ast.Expression = found.node
    if grower.scope.has_steps and grower.dice.chance(40):
        huge = ast.Binary("*", ast.Number("400"), T)
        forms_of_x: tuple[ast.Expression, ...] = (ast.Binary("^", ast.Number("2"), huge), call_node("exp", huge))
        x = grower.dice.pick(forms_of_x)
    half = ast.Unary("-", HALF)
    forms: tuple[ast.Expression, ...] = (
        ast.Select(compare(x, "<", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("sqrt", x), "!=", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("max", half, x), ">", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("min", x, half), "<=", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("clamp", x, half, HALF), ">=", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("floor", x), ">", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("round", x), ">", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("log1p", x), "<", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("atan", x), "<", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("cos", x), "<", ONE), ONE, HALF),
        ast.Select(compare(call_node("sin", x), "<", NEVER_MET), ONE, HALF),
        ast.Select(compare(call_node("exp", x), "<", NEVER_MET), ONE, HALF),
        call_node("sign", call_node("abs", x)),
    )
    return Term(grower.dice.pick(forms), SCALAR, 1, Phase.STEP if grower.scope.has_steps else found.phase)


def beside_its_guard(grower: Grower, shape: Shape, depth: int) -> Term:
    """A condition whose right side has no value where its left one decides."""
    found = edge(grower)
    above = compare(found.node, grower.dice.pick((">", "<")), NEVER_MET)
    if grower.dice.chance(50):
        return Term(ast.Binary("and", found.guard, above), SCALAR, 1, found.phase)
    return Term(ast.Binary("or", ast.Unary("not", found.guard), above), SCALAR, 1, found.phase)


def has_edges(scope: Scope, shape: Shape) -> bool:
    return "wait" in scope.settings


EDGES = (Production(7, guarded, has_edges), Production(4, saturate, has_edges))
EDGE_CONDITIONS = (Production(3, beside_its_guard, has_edges),)
