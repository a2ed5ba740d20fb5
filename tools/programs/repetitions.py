"""Productions of functions that are applied again and again."""

from __future__ import annotations

from optforge.compiler.ir.types import Phase, Shape
from optforge.dsl import ast
from tools.programs.grower import Grower, Production
from tools.programs.terms import LIMIT, Term, call_node, elementwise, name

COUNTER = "again"


def repetition(grower: Grower, shape: Shape, depth: int) -> Term:
    """A function that keeps what it is given small: the same in all rounds, or one that looks at their number."""
    scope, dice = grower.scope, grower.dice
    term = grower.number(shape, depth)
    plans = [plan for plan in scope.functions if not (plan.has_state or plan.is_scalar or scope.is_smooth)]
    if plans and dice.chance(40):
        plan = dice.pick(plans)
        keywords = {each: grower.setting("decay") for each in plan.scalars if dice.chance(40)}
        node = repeated(grower, term, call_node(plan.name, **keywords))
        return Term(node, term.shape, LIMIT, max(term.phase, Phase.STEP), term.ground)
    function = dice.pick(("tanh", "sin", "atan", "bounded", "limited"))
    if function == "bounded" and not scope.is_smooth:
        bound = ast.Binary("/", grower.setting("decay"), name(COUNTER))
        return elementwise(counted(grower, term, call_node("clamp", ast.Unary("-", bound), bound)), 1, term)
    if function == "limited" and not scope.is_smooth:
        other = grower.number(grower.part_of(shape), depth - 1)
        node = repeated(grower, term, call_node(dice.pick(("min", "max")), other.node))
        return elementwise(node, max(term.bound, other.bound), term, other)
    function = function if function in ("tanh", "sin", "atan") else "tanh"
    return elementwise(repeated(grower, term, call_node(function)), 1.6, term)


def repeated(grower: Grower, term: Term, call: ast.Call) -> ast.Pipe:
    """Several rounds of the call, all alike; the counter of some is read by nobody."""
    if grower.dice.chance(15):
        return counted(grower, term, call)
    repetition = ast.Repetition(ast.Number(str(1 + grower.dice.below(3))))
    return ast.Pipe(term.node, call, not (call.arguments or call.keywords), repetition)


def counted(grower: Grower, term: Term, call: ast.Call) -> ast.Pipe:
    first = 1 + grower.dice.below(2)
    bounds = ast.Number(str(first + grower.dice.below(3))), ast.Identifier(COUNTER), ast.Number(str(first))
    return ast.Pipe(term.node, call, not (call.arguments or call.keywords), ast.Repetition(*bounds))


REPETITIONS = (Production(5, repetition),)
