"""Random blocks of equations: the bodies of rules, events and functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from optforge.compiler.ir.operators import CALLABLE
from optforge.compiler.ir.types import FULL, SCALAR, Phase, Universe
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.conditions import CONDITIONS
from tools.programs.edges import EDGE_CONDITIONS, EDGES
from tools.programs.elementwise import OFFSET, PRODUCTIONS, initial_of
from tools.programs.grower import FunctionPlan, Grower, Scope
from tools.programs.matrices import MATRIX_PRODUCTIONS
from tools.programs.repetitions import REPETITIONS
from tools.programs.terms import (
    LIMIT,
    Term,
    Variable,
    binary,
    call_node,
    constant,
    elementwise,
    minus,
    name,
    plus,
    times,
)

TURNS = ("turn", "turn_2", "turn_3")
SHARED = "common"
NAMES = ("m", "v", "a", "update", "norm", "b", "torch", "s", "weight_part", "x_1", "rho", "trace", "lambda")


def grower_of(dice: Dice, scope: Scope) -> Grower:
    return Grower(dice, scope, PRODUCTIONS + MATRIX_PRODUCTIONS + EDGES + REPETITIONS, CONDITIONS + EDGE_CONDITIONS)


def plan_variables(grower: Grower, count: int, names: Sequence[str]) -> list[Variable]:
    """Names with shapes, before any has an equation."""
    left: list[str] = [text for text in names if text not in grower.scope.taken]
    planned: list[Variable] = []
    for _ in range(count):
        text = grower.dice.pick(left)
        left.remove(text)
        kind = grower.dice.below(20)
        if kind == 19:
            planned.append(Variable(text, SCALAR, is_boolean=True))
        elif kind >= 16:
            planned.append(Variable(text, SCALAR, grower.dice.pick((Phase.CONSTANT, Phase.STEP))))
        else:
            planned.append(Variable(text, grower.some_shape() if kind >= 8 else FULL))
    return planned


def grow_bindings(grower: Grower, planned: Sequence[Variable], remembered: Sequence[Variable]) -> list[ast.Binding]:
    """An equation for each planned variable; it reads those before it, and all of them a step ago."""
    bindings = []
    before = grower.scope.variables
    for index, variable in enumerate(planned):
        scope = replace(grower.scope, variables=(*planned[:index][::-1], *before), remembered=tuple(remembered))
        node = grow_value(grower.within(scope), variable, [v for v in planned[:index] if not v.is_boolean])
        bindings.append(ast.Binding(ast.Identifier(variable.name), node))
        variable.is_pure = not variable.is_boolean and is_pure(node, scope)
    return bindings


def is_pure(node: object, scope: Scope) -> bool:
    """Whether an expression reads no state, no sum over parameters and no argument of an event."""
    match node:
        case ast.Name(name=text):
            known = {v.name: v.is_pure for v in scope.variables}
            return known.get(text, text not in {v.name for v in scope.remembered})
        case ast.Call(function=function) if function.name not in CALLABLE or function.name == "total":
            return False
        case ast.Node():
            return all(is_pure(getattr(node, each.name), scope) for each in fields(node))
        case tuple():
            return all(is_pure(each, scope) for each in node)
        case _:
            return True


def grow_value(grower: Grower, variable: Variable, earlier: Sequence[Variable]) -> ast.Expression:
    depth = 1 + grower.dice.weighted(((3, 0), (3, 1), (1, 2)))
    if variable.is_boolean:
        return grow_flag(grower, variable, depth)
    if variable.phase is not Phase.STREAM:
        is_constant = variable.phase is Phase.CONSTANT
        scope = grower.scope.constants() if is_constant else grower.scope.steps()
        term = grower.within(scope).number(SCALAR, depth)
    elif grower.dice.chance(6) and (alias := grow_alias(grower, variable, earlier)):
        return alias
    else:
        term = grower.number(SCALAR, depth) if variable.shape == SCALAR else grower.exact(variable.shape, depth)
    variable.bound, variable.phase = max(term.bound, 1), term.phase
    return own_stream(variable, term.node)


def grow_flag(grower: Grower, variable: Variable, depth: int) -> ast.Expression:
    """A condition as a value; its shape is known without looking at states."""
    shape = grower.some_shape() if grower.scope.is_matrix else FULL
    term = grower.condition(shape, depth)
    if term.ground != term.shape:
        data = grower.anchor(term.shape)
        above = elementwise(ast.Comparison(data.node, ((">", OFFSET.node),)), 1, data)
        term = binary("and", term, above, 1)
    variable.shape, variable.phase = term.shape, term.phase
    return term.node


def grow_alias(grower: Grower, variable: Variable, earlier: Sequence[Variable]) -> ast.Expression | None:
    """Another name for a stream; both are remembered from the same first value."""
    same = [v for v in (*earlier, *grower.scope.data) if v.shape == variable.shape and v.phase is Phase.STREAM]
    if not same or variable.initial:
        return None
    root = grower.dice.pick(same)
    if variable.initial is None:
        variable.initial = initial_of(grower, root)
    elif initial_of(grower, root):
        return None
    variable.bound = root.bound
    return root.term().node


def own_stream(variable: Variable, node: ast.Expression) -> ast.Expression:
    """The node; behind ``1 *`` where it might be another stream with another first value."""
    if not isinstance(node, ast.Name | ast.Call | ast.Pipe):
        return node
    call = node.call if isinstance(node, ast.Pipe) else node
    if isinstance(call, ast.Call) and not variable.initial and starts_at_zero(call, isinstance(node, ast.Pipe)):
        variable.initial = []
        return node
    return ast.Binary("*", ast.Number("1"), node)


def starts_at_zero(call: ast.Call, is_piped: bool) -> bool:
    """Whether the state that the call may stand for starts at zero."""
    if call.function.name == "ema":
        return len(call.arguments) + is_piped == 2
    return call.function.name in CALLABLE or call.function.name in ("momentum", "heavy_ball", "debias")


# States that hand on what others hold


def grow_turns(grower: Grower, planned: Sequence[Variable]) -> tuple[list[ast.Binding], list[Variable]]:
    """Streams that are each the step before of the next one, or in a ring of each other."""
    turns = [Variable(text, FULL) for text in TURNS[: 1 + grower.dice.below(3)]]
    if len(turns) > 1 and grower.dice.chance(50):
        firsts: tuple[ast.Expression, ...] = (ast.Name("weight"), ast.Name("grad"), ast.Number("0.5"))
        for turn in turns:
            turn.initial = [grower.dice.pick(firsts)]
        return [delayed(turn, other) for turn, other in zip(turns, (*turns[1:], turns[0]), strict=True)], turns
    same = [
        v for v in (*grower.scope.data, *planned) if v.shape == FULL and not v.is_boolean and v.phase is Phase.STREAM
    ]
    root = grower.dice.pick(same)
    initial_of(grower, root)
    for turn in turns:
        turn.bound, turn.initial = root.bound, []
    return [delayed(turn, other) for turn, other in zip(turns, (root, *turns), strict=False)], turns


def delayed(variable: Variable, other: Variable) -> ast.Binding:
    """The variable is the other one, a step ago."""
    other.reads += 1
    return ast.Binding(ast.Identifier(variable.name), call_node("prev", ast.Name(other.name), *(other.initial or [])))


def may_exchange(data: Sequence[Variable]) -> bool:
    """Whether the weight can be kept from its first value on: nothing has it begin with another one. From now on that
    is what its state begins with."""
    weight = next(variable for variable in data if variable.name == "weight")
    if weight.initial is None:
        weight.initial = [ast.Name("weight")]
    return weight.initial == [ast.Name("weight")]


def exchange() -> list[ast.Statement]:
    """The weight and a kept one take each other's place."""
    kept = ast.Name("kept")
    value = call_node("prev", kept, ast.Name("weight"))
    return [ast.Binding(ast.Identifier("kept"), ast.Name("weight")), ast.Update(ast.Identifier("weight"), value)]


# What parameters share


def grow_shared(grower: Grower, is_alone: bool) -> tuple[list[ast.Binding], list[Variable]]:
    """A value that all parameters of the rule have in common, if its name is free.

    It reads no hypers, which groups may have different, and beside other rules no sum: wrappers make it one of states.
    """
    if SHARED in grower.scope.taken:
        return [], []
    summed = call_node("mean", ast.Binary("^", name("grad"), ast.Number("2")))
    fading = ast.Binary("/", ast.Number("1"), ast.Binary("+", ast.Number("0.5"), name("t")))
    size = call_node("tanh", call_node("total", summed)) if is_alone else fading
    before, half = call_node("prev", name(SHARED), ast.Number("0.5")), ast.Number("0.5")
    forms: tuple[ast.Expression, ...] = (
        ast.Binary("+", ast.Binary("*", half, before), ast.Binary("*", half, size)),
        call_node("max", before, ast.Binary("/", size, ast.Binary("+", half, name("t")))),
        call_node("ema", size, half),
        ast.Binary("-", size, ast.Binary("*", half, call_node("prev", name(SHARED)))),
    )
    return [ast.Binding(ast.Identifier(SHARED), grower.dice.pick(forms), shared=True)], [Variable(SHARED, SCALAR)]


# The results of rules


def grow_update(grower: Grower, planned: Sequence[Variable]) -> tuple[list[ast.Binding], ast.Expression]:
    """A step of the weight that is neither nothing nor large, and bindings it needs."""
    if grower.dice.chance(6):
        return hyperball(grower)
    weight = ast.Name("weight")
    rates: tuple[ast.Expression, ...] = (ast.Name("lr"), ast.Number("0.05"))
    lr = grower.dice.pick(rates)
    u = grower.small(with_unread(grower, grower.exact(FULL, 1 + grower.dice.below(2)), planned)).node
    decayed = ast.Binary("*", ast.Number("0.1"), weight)
    step: ast.Expression = ast.Binary("*", lr, u)
    match grower.dice.below(6):
        case 1:
            kept = ast.Binary("-", ast.Number("1"), ast.Binary("*", lr, ast.Number("0.1")))
            return [], ast.Binary("-", ast.Binary("*", kept, weight), step)
        case 2:
            return [], ast.Binary("-", weight, ast.Binary("*", lr, ast.Binary("+", u, decayed)))
        case 3:
            return [], ast.Binary(
                "+", ast.Binary("*", ast.Number("0.9"), weight), ast.Binary("*", ast.Number("0.1"), u)
            )
        case 4:
            condition = grower.condition(SCALAR, 1)
            other = ast.Binary("-", weight, ast.Binary("*", ast.Number("0.03"), ast.Name("grad")))
            return [], ast.Select(condition.node, ast.Binary("-", weight, step), other)
        case _:
            return [], ast.Binary("-", weight, step)


def with_unread(grower: Grower, term: Term, planned: Sequence[Variable]) -> Term:
    """The term, and what is left over of the planned values."""
    for variable in planned:
        if variable.reads or variable.is_boolean or variable.shape not in (FULL, SCALAR):
            continue
        if grower.dice.chance(70):
            term = plus(term, times(constant("0.1"), grower.squashed(variable.term())))
    return term


def hyperball(grower: Grower) -> tuple[list[ast.Binding], ast.Expression]:
    """A step on the sphere on which the weight started."""
    solid = grower.solid()
    assert solid is not None
    first = call_node("norm", ast.Name("weight"))
    radius = ast.Binding(ast.Identifier("radius"), call_node("prev", ast.Name("radius"), first))
    moved = minus(Term(ast.Name("weight"), FULL, LIMIT), times(constant("0.05"), solid))
    scaled = ast.Binary("*", ast.Name("w"), ast.Name("radius"))
    length = ast.Binary("/", scaled, call_node("norm", ast.Name("w")))
    return [ast.Binding(ast.Identifier("w"), moved.node), radius], length


def foreign(variables: Sequence[Variable]) -> tuple[Variable, ...]:
    """The variables as another machine sees them: streams of the step before."""
    return tuple(Variable(v.name, v.shape, bound=LIMIT, is_foreign=True) for v in variables if not v.is_boolean)


# Functions


def grow_function(
    dice: Dice, text: str, settings: dict[str, tuple[ast.Expression, ...]], known: Sequence[FunctionPlan]
) -> tuple[ast.Function, FunctionPlan]:
    """A function of a value of any shape; its body sees that value as a tensor."""
    scalars = ("k",) if dice.chance(50) else ()
    has_state, is_scalar = dice.chance(50), dice.chance(20)
    x = Variable("x", FULL, bound=LIMIT, initial=[])
    variables = (x, *(Variable(each, SCALAR, Phase.CONSTANT, 1) for each in scalars))
    scope = Scope(
        Universe.TENSOR, variables, data=(x,), settings=settings, has_state=has_state,
        functions=tuple(plan for plan in known if has_state or not plan.has_state),
    )  # fmt: skip
    grower = grower_of(dice, scope)
    is_block = has_state or dice.chance(40)
    planned = plan_variables(grower, 1 + dice.below(2), ("s", "r")) if is_block else []
    remembered = tuple(variable for variable in planned if has_state and not variable.is_boolean)
    body = grow_bindings(grower, planned, remembered)
    inner = grower.within(replace(scope, variables=(*planned[::-1], *variables), remembered=remembered))
    result = inner.exact(FULL, 1 + dice.below(2))
    if is_scalar:
        result = inner.reduced(result, None)
    parameters = (
        ast.Parameter(ast.Identifier("x")),
        *(ast.Parameter(ast.Identifier(k), ast.Number("0.6")) for k in scalars),
    )
    node = ast.Function(ast.Identifier(text), parameters, tuple(body), inner.tamed(result).node, is_block=is_block)
    return node, FunctionPlan(text, scalars, has_state, is_scalar)
