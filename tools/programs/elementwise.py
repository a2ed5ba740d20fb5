"""Productions of elementwise operators, reductions, choices, states and calls of functions."""

from __future__ import annotations

from optforge.compiler.ir.operators import STREAMS
from optforge.compiler.ir.types import BESIDE, FULL, SCALAR, Dim, Phase, Shape
from optforge.dsl import ast
from tools.programs.grower import Grower, Production, Scope
from tools.programs.terms import (
    LIMIT,
    Term,
    Variable,
    apply_to,
    binary,
    call_node,
    constant,
    elementwise,
    fits_in,
    join_shapes,
    minus,
    name,
    plus,
    reduce_shape,
    times,
)

OFFSET = constant("0.0371")  # keeps comparisons and rounding away from ties
POWERS = ("2", "0.5", "3", "-1", "1.5", "-0.5", "1", "0")
BOUNDS = ("-1", "0.5", "-0.25", "2", "1")


def leaf(grower: Grower, shape: Shape, depth: int) -> Term:
    return grower.leaf(shape)


def operands(grower: Grower, shape: Shape, depth: int) -> tuple[Term, Term]:
    """Two numbers that together spread over the shape, the first usually over all of it."""
    return grower.number(shape, depth), grower.number(grower.part_of(shape), depth)


def arithmetic(grower: Grower, shape: Shape, depth: int) -> Term:
    left, right = operands(grower, shape, depth)
    combine = grower.dice.pick((plus, minus, times))
    return combine(left, right) if grower.dice.chance(70) else combine(right, left)


def quotient(grower: Grower, shape: Shape, depth: int) -> Term:
    left, right = operands(grower, shape, depth)
    return binary("/", left, positive(grower, right), left.bound / 0.25)


def positive(grower: Grower, term: Term) -> Term:
    """Something at least 0.25 large that depends on the term."""
    margin = grower.dice.pick((constant("0.5"), constant("0.25"), constant("1")))
    if grower.scope.is_smooth:
        return plus(binary("^", term, constant("2"), term.bound**2), margin)
    return plus(apply_to("abs", term, term.bound), margin)


def negation(grower: Grower, shape: Shape, depth: int) -> Term:
    term = grower.number(shape, depth)
    return elementwise(ast.Unary("-", term.node), term.bound, term)


def smooth_function(grower: Grower, shape: Shape, depth: int) -> Term:
    term = grower.number(shape, depth)
    match grower.dice.below(8):
        case 0:
            return apply_to("tanh", term, 1)
        case 1:
            return apply_to("cos", term, 1)
        case 2:
            return apply_to("sin", term, 1)
        case 3:
            inner = positive(grower, term)
            return apply_to("sqrt", inner, max(1, inner.bound**0.5))
        case 4:
            return apply_to("log", positive(grower, term), 6)
        case 5:
            return apply_to("log1p", positive(grower, term), 6)
        case 6:
            return apply_to("atan", term, 1.6)
        case _:
            return apply_to("exp", grower.squashed(term), 2.8)


def rough_function(grower: Grower, shape: Shape, depth: int) -> Term:
    """Functions with corners and jumps; an offset keeps exact zeros off the jumps."""
    term = grower.number(shape, depth)
    match grower.dice.below(6):
        case 0:
            return apply_to("abs", term, term.bound)
        case 1:
            return apply_to("sign", plus(term, OFFSET), 1)
        case 2:
            scaled = plus(times(term, constant("2.3")), OFFSET)
            return apply_to("floor", scaled, scaled.bound + 1)
        case 4:
            scaled = plus(times(term, constant("2.3")), OFFSET)
            return apply_to("round", scaled, scaled.bound + 1)
        case 3:
            other = positive(grower, grower.number(grower.part_of(shape), 0))
            node = grower.call("mod", plus(term, OFFSET).node, other.node)
            return elementwise(node, other.bound, term, other)
        case _:
            return elementwise(grower.call("exp", ast.Unary("-", call_node("abs", term.node))), 1, term)


def extremum(grower: Grower, shape: Shape, depth: int) -> Term:
    left, right = operands(grower, shape, depth)
    if grower.dice.chance(40):
        right = constant(grower.dice.pick(BOUNDS))
    if grower.dice.chance(30):
        left, right = right, left
    node = grower.call(grower.dice.pick(("min", "max")), left.node, right.node)
    return elementwise(node, max(left.bound, right.bound), left, right)


def clamp(grower: Grower, shape: Shape, depth: int) -> Term:
    parts = [grower.number(shape, depth)]
    for spelling in ("-0.5", "1"):
        is_literal = grower.dice.chance(60)
        parts.append(constant(spelling) if is_literal else grower.number(grower.part_of(shape), depth - 1))
    if grower.dice.chance(15):
        parts.reverse()
    node = grower.call("clamp", *(part.node for part in parts))
    return elementwise(node, max(part.bound for part in parts), *parts)


def power(grower: Grower, shape: Shape, depth: int) -> Term:
    base = grower.number(shape, depth)
    form = grower.dice.below(4)
    if form == 0:
        return binary("^", base, constant("2"), base.bound**2)
    if form == 1:
        return binary("^", base, constant(grower.dice.pick(("3", "1"))), base.bound**3)
    root = positive(grower, base)
    if form == 2:
        exponent = constant(grower.dice.pick(POWERS))
        return binary("^", root, exponent, max(1, root.bound, 4) ** max(1, exponent.bound))
    exponent = grower.squashed(grower.number(grower.part_of(shape), depth))
    return binary("^", root, exponent, max(root.bound, 4))


def average(grower: Grower, shape: Shape, depth: int) -> Term:
    """``a * x + (1 - a) * y``, which becomes ``lerp`` where the shapes agree."""
    left, right = operands(grower, shape, depth)
    share = Term(grower.setting("decay"), SCALAR, 1, Phase.CONSTANT)
    rest = elementwise(ast.Binary("-", ast.Number("1"), share.node), 1, share)
    first, second = times(share, left), times(rest, right)
    return plus(first, second) if grower.dice.chance(60) else plus(times(right, rest), times(left, share))


def repeat(grower: Grower, shape: Shape, depth: int) -> Term:
    """The same expression twice, for what shares them."""
    term = grower.number(shape, depth)
    if grower.dice.chance(50):
        return times(term, term)
    return plus(apply_to("tanh", term, 1), times(term, constant("0.5")))


def reduction(grower: Grower, shape: Shape, depth: int) -> Term:
    rows, cols = shape
    per = grower.dice.pick(("row", "col")) if grower.scope.is_matrix and grower.dice.chance(60) else None
    source = grower.some_shape() if per is None else ((rows, Dim.COLS) if per == "row" else (Dim.ROWS, cols))
    if per is not None and not fits_in(reduce_shape(source, per), shape):
        per, source = None, FULL
    term = grower.number(source, depth)
    if grower.dice.chance(20):
        return inner_product(grower, term, grower.number(grower.part_of(source), depth), per)
    return grower.reduced(term, per)


def ordered(grower: Grower, shape: Shape, depth: int) -> Term:
    """Ranks of data in general position, as shares of all elements, or what lies in their middle."""
    term = grower.solid()
    assert term is not None
    per = grower.dice.pick(("row", "col")) if grower.scope.is_matrix and grower.dice.chance(60) else None
    keywords: dict[str, ast.Expression] = {} if per is None else {"per": name(per)}
    node: ast.Expression
    match grower.dice.below(3):
        case 0:
            node = ast.Binary("*", ast.Number("0.1"), grower.call("rank", term.node, **keywords))
            return Term(node, FULL, 6, Phase.STREAM, FULL)
        case 1:
            node = grower.call("median", term.node, **keywords)
        case _:
            node = grower.call("quantile", term.node, ast.Number(grower.dice.pick(("0.25", "0.8"))), **keywords)
    own = reduce_shape(FULL, per)
    return Term(node, own, term.bound, Phase.STREAM, own)


def inner_product(grower: Grower, left: Term, right: Term, per: str | None) -> Term:
    keywords: dict[str, ast.Expression] = {} if per is None else {"per": name(per)}
    node = grower.call("dot", left.node, right.node, **keywords)
    both = elementwise(node, 36 * left.bound * right.bound, left, right)
    return Term(node, reduce_shape(both.shape, per), both.bound, both.phase, reduce_shape(both.ground, per))


def choice(grower: Grower, shape: Shape, depth: int) -> Term:
    condition = grower.condition(grower.part_of(shape), depth)
    then, otherwise = operands(grower, shape, depth)
    if grower.dice.chance(30):
        then, otherwise = otherwise, then
    node = ast.Select(condition.node, then.node, otherwise.node)
    parts = [then, otherwise] + ([condition] if condition.is_stream else [])
    whole = elementwise(node, max(then.bound, otherwise.bound), *parts)
    ground = join_shapes([then.ground, otherwise.ground])  # a condition does not tell the shape of a state
    return Term(node, whole.shape, whole.bound, max(condition.phase, whole.phase), ground)


def mask(grower: Grower, shape: Shape, depth: int) -> Term:
    condition = grower.condition(shape, depth)
    node = ast.Select(condition.node, ast.Number("1"), ast.Number("0"))
    return Term(node, condition.shape, 1, condition.phase, condition.ground)


# States


def remembers(scope: Scope, shape: Shape) -> bool:
    return scope.has_state


def previous(grower: Grower, shape: Shape, depth: int) -> Term:
    """``prev`` of some name, the gradient or the weight."""
    known = [v for v in (*grower.scope.remembered, *grower.scope.data) if fits_in(v.shape, shape)]
    if not known:
        return grower.leaf(shape)
    unread = [variable for variable in known if not variable.reads]
    variable = unread[0] if unread and grower.dice.chance(30) else grower.dice.pick(known)
    variable.reads += 1
    initial = initial_of(grower, variable)
    node = grower.call("prev", name(variable.name), *initial)
    return Term(node, variable.shape, variable.bound)


def initial_of(grower: Grower, variable: Variable) -> list[ast.Expression]:
    """What every ``prev`` of the variable starts from: nothing, or one expression."""
    if variable.initial is None:
        variable.initial = []
        if grower.dice.chance(40):
            plain = grower.scope.without_state()
            pure = tuple(v for v in plain.variables if v.is_pure)
            data = tuple(v for v in plain.data if v.name in ("grad", "weight"))
            inner = grower.within(Scope(
                plain.universe, pure if data else (), data=data, settings=plain.settings, has_state=False,
                has_prelude=False,
            ))  # fmt: skip
            is_own = variable in data and grower.dice.chance(30)  # so that the first step before is this step
            variable.initial = [
                name(variable.name) if is_own else inner.number(variable.shape, grower.dice.below(3)).node
            ]
    return variable.initial


def ema(grower: Grower, shape: Shape, depth: int) -> Term:
    term = grower.number(shape, depth)
    arguments = [term.node, grower.setting("decay")]
    form = grower.dice.below(6)
    if form == 1:
        node = grower.call("debias", call_node("ema", *arguments), arguments[1])
    elif form == 2:
        node = grower.call("momentum", *arguments)
    elif form == 3:
        node = grower.call("momentum", *arguments, nesterov=ast.Boolean(True))
    elif form == 4:
        node = grower.call("heavy_ball", *arguments, *([ast.Boolean(True)] if grower.dice.chance(40) else []))
    else:
        node = grower.call("ema", *arguments, *([ast.Number("0.5")] if form == 5 else []))
    whole = elementwise(node, 20 * term.bound if form == 4 else max(1, term.bound), term)
    return Term(node, whole.shape, whole.bound, Phase.STREAM, whole.ground)


# Functions


def has_function(scope: Scope, shape: Shape) -> bool:
    return any(scope.has_state or not plan.has_state for plan in scope.functions)


def own_function(grower: Grower, shape: Shape, depth: int) -> Term:
    plans = [plan for plan in grower.scope.functions if grower.scope.has_state or not plan.has_state]
    plan = grower.dice.pick(plans)
    term = grower.number(shape, depth)
    if plan.has_state:
        term = plus(term, constant("0.25"))  # a value of its own, whose `prev` is nobody else's
    keywords = {each: grower.setting("decay") for each in plan.scalars if grower.dice.chance(40)}
    node = grower.call(plan.name, term.node, **keywords)
    phase = max(term.phase, Phase.STEP)
    whole = Term(node, term.shape, LIMIT, phase, term.ground)
    return Term(node, SCALAR, LIMIT, phase) if plan.is_scalar else whole


def prelude_function(grower: Grower, shape: Shape, depth: int) -> Term:
    """Functions of the prelude that divide by norms: small arguments get a large eps."""
    term, like = grower.number(shape, depth), grower.number(grower.part_of(shape), depth)
    eps = ast.Number("0.1")
    match grower.dice.below(7 if grower.scope.is_matrix else 3):
        case 0:
            node, shapes, bound = grower.call("rms", term.node), SCALAR, max(1, term.bound)
            return Term(node, shapes, bound, term.phase)
        case 1:
            node = grower.call("match_norm", term.node, like.node, eps)
            whole = Term(node, term.shape, 6 * like.bound, max(term.phase, like.phase), term.ground)
            return whole
        case 2:
            return elementwise(grower.call("clip_norm", term.node, ast.Number("0.7"), eps=eps), 0.7, term)
        case 3 | 4 as which:
            function = "rownorm" if which == 3 else "colnorm"
            return elementwise(grower.call(function, term.node, eps=eps), 10 * term.bound, term)
        case which:
            per: dict[str, ast.Expression] = {"per": name("col")} if which == 6 else {}
            node = grower.call("project", term.node, like.node, **per, eps=eps)
            return elementwise(node, 7 * term.bound, term, like)


def is_solid(scope: Scope, shape: Shape) -> bool:
    is_data = bool(scope.data) and scope.data[0].name in ("grad", "weight")
    return shape == FULL and is_data and has_prelude(scope, shape)


def comparison_of_data(grower: Grower, shape: Shape, depth: int) -> Term:
    """``trust_ratio`` and ``cautious``, which ask for arguments in general position."""
    left, right = grower.solid(), grower.solid()
    assert left is not None and right is not None
    if grower.dice.chance(50):
        return Term(grower.call("trust_ratio", left.node, right.node), SCALAR, LIMIT)
    return Term(grower.call("cautious", left.node, right.node), FULL, 36 * left.bound, Phase.STREAM, FULL)


def has_total(scope: Scope, shape: Shape) -> bool:
    return scope.total_scope is not None


def total(grower: Grower, shape: Shape, depth: int) -> Term:
    scope = grower.scope.total_scope
    over: dict[str, ast.Expression] = {}
    if grower.scope.own_total is not None and grower.dice.chance(40):
        word, scope = grower.scope.own_total
        over["over"] = name(word)
    assert scope is not None
    term = grower.within(scope).number(SCALAR, max(depth, 1))
    return times(constant("0.1"), Term(grower.call("total", term.node, **over), SCALAR, 12 * term.bound))


def is_rough(scope: Scope, shape: Shape) -> bool:
    return not scope.is_smooth


def has_prelude(scope: Scope, shape: Shape) -> bool:
    return scope.has_prelude and not scope.is_smooth


def is_rough_function(scope: Scope, shape: Shape) -> bool:
    return not scope.is_smooth and has_function(scope, shape)


def can_draw(scope: Scope, shape: Shape) -> bool:
    return scope.has_state and shape in BESIDE


def drawn(grower: Grower, shape: Shape, depth: int) -> Term:
    """Random numbers in the shape of something else; some of several streams."""
    keywords: dict[str, ast.Expression] = {}
    if shape != FULL or grower.dice.chance(30):
        keywords["of"] = grower.exact(shape, depth - 1).node
    if grower.dice.chance(50):
        keywords["stream"] = ast.Number(grower.dice.pick(("1", "20")))
    return Term(call_node(grower.dice.pick(STREAMS), **keywords), shape, 5.5, Phase.STREAM, shape)


PRODUCTIONS = (
    Production(10, leaf),
    Production(22, arithmetic),
    Production(7, quotient),
    Production(3, negation),
    Production(10, smooth_function),
    Production(8, rough_function, is_rough),
    Production(6, extremum, is_rough),
    Production(4, clamp, is_rough),
    Production(7, power),
    Production(6, average),
    Production(4, repeat),
    Production(8, reduction),
    Production(9, choice, is_rough),
    Production(2, mask, is_rough),
    Production(10, previous, remembers),
    Production(8, ema, remembers),
    Production(8, own_function, is_rough_function),
    Production(8, prelude_function, has_prelude),
    Production(4, comparison_of_data, is_solid),
    Production(4, ordered, is_solid),
    Production(6, total, has_total),
    Production(5, drawn, can_draw),
)
