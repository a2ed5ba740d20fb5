"""Random expressions of a wanted shape: the frame into which the productions fit.

A production grows one form of expression. The tables of productions are in the modules beside this
one; which of them fit depends on the scope: a rule, an event, a function's body, an initial value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from optforge.compiler.ir.types import FULL, SCALAR, Dim, Phase, Shape, Universe
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.terms import (
    DATA_BOUND,
    LIMIT,
    WEIGHT_BOUND,
    Term,
    Variable,
    call_node,
    constant,
    elementwise,
    fits_in,
    name,
    piped,
    plus,
    reduce_shape,
    swapped,
    times,
)

NUMBERS = ("0.5", "2", "1", "0", "0.1", "0.25", "3", "1e-1", "0.7", "1.5E0", "-0.3")
PEAKED = (("norm", 6.0), ("max", 1.0), ("min", 1.0))  # reductions without a derivative everywhere, with bounds
SIDES = (Dim.ONE, Dim.ROWS, Dim.COLS)
MATRIX_SHAPES = tuple((rows, cols) for rows in SIDES for cols in SIDES)


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """A function that programs may call: elementwise in its first parameter, or a scalar of it."""

    name: str
    scalars: tuple[str, ...]  # further parameters, all with defaults
    has_state: bool
    is_scalar: bool


@dataclass
class Aside:
    """Names that are left, and the equations that have got one while others were grown."""

    names: list[str]
    bindings: list[ast.Binding] = field(default_factory=list)


@dataclass(frozen=True)
class Scope:
    """What an expression may use."""

    universe: Universe
    variables: tuple[Variable, ...] = ()
    remembered: tuple[Variable, ...] = ()
    data: tuple[Variable, ...] = ()
    functions: tuple[FunctionPlan, ...] = ()
    settings: dict[str, tuple[ast.Expression, ...]] = field(default_factory=dict)
    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()  # string hypers and their values
    has_steps: bool = True
    has_state: bool = True
    total_scope: Scope | None = None
    own_total: tuple[str, Scope] | None = None  # the word of the rule, and what sums over its parameters may read
    has_prelude: bool = True
    is_smooth: bool = False
    aside: Aside | None = None
    taken: frozenset[str] = frozenset()  # what no equation here may be called: the hypers

    @property
    def is_matrix(self) -> bool:
        return self.universe is Universe.MATRIX

    def without_state(self) -> Scope:
        return replace(self, has_state=False, remembered=(), total_scope=None, own_total=None)

    def constants(self) -> Scope:
        """Only what does not change while the hypers stay."""
        fixed = tuple(v for v in self.variables if v.phase is Phase.CONSTANT)
        return replace(self.without_state(), variables=fixed, data=(), has_steps=False)

    def steps(self) -> Scope:
        """What changes with the step count at most."""
        fixed = tuple(v for v in self.variables if v.phase is not Phase.STREAM)
        return replace(self.without_state(), variables=fixed, data=())

    def summed(self, is_alone: bool) -> Scope:
        """What a sum over all parameters may read: beside other rules only what all of them have."""
        inner = replace(self.without_state(), aside=None)
        fixed = tuple(v for v in inner.variables if v.phase is Phase.CONSTANT)
        return inner if is_alone else replace(inner, universe=Universe.TENSOR, variables=fixed)


def data_variables(*names: str) -> tuple[Variable, ...]:
    bounds = {"grad": DATA_BOUND, "weight": WEIGHT_BOUND}
    return tuple(Variable(each, FULL, bound=bounds[each]) for each in names)


@dataclass(frozen=True)
class Production:
    """``fits`` says whether it can give a value that spreads over the shape."""

    weight: int
    grow: Callable[[Grower, Shape, int], Term]
    fits: Callable[[Scope, Shape], bool] = lambda scope, shape: True


@dataclass
class Grower:
    dice: Dice
    scope: Scope
    productions: tuple[Production, ...]
    conditions: tuple[Production, ...]

    def within(self, scope: Scope) -> Grower:
        return replace(self, scope=scope)

    # Numbers

    def number(self, shape: Shape, depth: int) -> Term:
        """A number that spreads over the shape, at most LIMIT large."""
        if depth <= 0:
            return self.tamed(self.leaf(shape))
        return self.tamed(self._grown(self.productions, shape, depth))

    def exact(self, shape: Shape, depth: int) -> Term:
        """A stream of exactly this shape, which inference finds without looking at states."""
        term = self.number(shape, depth)
        if term.ground == shape and term.is_stream:
            return term
        combine = self.dice.pick((plus, times))
        return self.tamed(combine(self.anchor(shape), self.small(term)))

    def condition(self, shape: Shape, depth: int) -> Term:
        """True or false, spreading over the shape."""
        return self._grown(self.conditions, shape, depth)

    def _grown(self, table: Iterable[Production], shape: Shape, depth: int) -> Term:
        fitting = [(each.weight, each) for each in table if each.fits(self.scope, shape)]
        return self.dice.weighted(fitting).grow(self, shape, depth - 1)

    def part_of(self, shape: Shape) -> Shape:
        """The shape, or one that spreads over it."""
        rows, cols = shape
        kept = self.dice.weighted(((5, shape), (1, (rows, Dim.ONE)), (1, (Dim.ONE, cols)), (1, SCALAR)))
        return kept if self.scope.is_matrix or kept in (FULL, SCALAR) else shape

    def some_shape(self) -> Shape:
        return (
            self.dice.pick((FULL, SCALAR, *MATRIX_SHAPES)) if self.scope.is_matrix else self.dice.pick((FULL, SCALAR))
        )

    # Leaves

    def leaf(self, shape: Shape) -> Term:
        """A name, a literal, or the simplest stream of the shape."""
        exact = self.dice.chance(70)
        names = [v for v in self.scope.variables if self._suits(v, shape, exact)]
        unread = [variable for variable in names if not variable.reads]
        if unread and self.dice.chance(60):
            return unread[0].term()
        if names and self.dice.chance(60):
            return self.dice.pick(names).term()
        if exact and shape != SCALAR and self.can_anchor(shape):
            return self.anchor(shape)
        return self.plain_scalar()

    def _suits(self, variable: Variable, shape: Shape, exact: bool) -> bool:
        if variable.is_boolean:
            return False
        return variable.shape == shape if exact else fits_in(variable.shape, shape)

    def plain_scalar(self) -> Term:
        """A literal, a step-dependent number or a dimension."""
        kind = self.dice.below(8)
        if kind == 7 and self.scope.is_matrix and not self.scope.is_smooth and self.scope.data:
            size = self.dice.pick(("rows", "cols", "outputs", "inputs"))
            return Term(name(size), SCALAR, 12, Phase.CONSTANT)
        if kind >= 5 and self.scope.has_steps:
            return self.step_number()
        if kind == 4:
            return Term(name("pi"), SCALAR, 3.2, Phase.CONSTANT)
        return constant(self.dice.pick(NUMBERS))

    def step_number(self) -> Term:
        t = Term(name("t"), SCALAR, 16, Phase.STEP)
        one, period = constant("1"), self.setting("period")
        forms: tuple[Callable[[], Term], ...] = (
            lambda: t,
            lambda: elementwise(ast.Binary("/", one.node, t.node), 1, t),
            lambda: elementwise(ast.Binary("^", self.setting("decay"), t.node), 1, t),
            lambda: elementwise(call_node("mod", t.node, period), 16, t),
            lambda: elementwise(call_node("min", ast.Binary("/", t.node, period), one.node), 1, t),
            lambda: elementwise(call_node("cos", t.node), 1, t),
        )
        return self.dice.pick(forms)()

    def setting(self, kind: str) -> ast.Expression:
        return self.dice.pick(self.scope.settings[kind])

    def can_anchor(self, shape: Shape) -> bool:
        return bool(self.scope.data) and (self.scope.is_matrix or shape in (FULL, SCALAR))

    def anchor(self, shape: Shape) -> Term:
        """A stream of exactly the shape, made of the gradient, the weight, or a function's argument."""
        base = self.dice.pick(self.scope.data).term()
        if shape == FULL:
            return base
        rows, cols = shape
        if shape == SCALAR:
            return self.reduced(base, None)
        if shape in ((Dim.COLS, Dim.ROWS), (Dim.COLS, Dim.ONE), (Dim.ONE, Dim.ROWS)):
            return swapped(self.anchor((cols, rows)))
        if shape == (Dim.ROWS, Dim.ONE):
            return self.reduced(base, "row")
        if shape == (Dim.ONE, Dim.COLS):
            return self.reduced(base, "col")
        other = self.dice.pick(self.scope.data).term()
        pair = (base, swapped(other)) if rows is Dim.ROWS else (swapped(base), other)
        node = ast.Binary("@", pair[0].node, pair[1].node)
        return Term(node, shape, 12 * base.bound * other.bound, Phase.STREAM, shape)

    def reduced(self, term: Term, per: str | None) -> Term:
        """A reduction of the term, over everything or per row or column."""
        smooth = (("mean", 1.0), ("sum", 36.0))
        kind, factor = self.dice.pick(smooth if self.scope.is_smooth else (*smooth, *PEAKED))
        keywords: dict[str, ast.Expression] = {} if per is None else {"per": name(per)}
        shape, ground = reduce_shape(term.shape, per), reduce_shape(term.ground, per)
        return Term(self.call(kind, term.node, **keywords), shape, factor * term.bound, term.phase, ground)

    def solid(self) -> Term | None:
        """A full stream whose elements are in general position: safe where small arguments are not."""
        if not self.scope.data or self.scope.data[0].name not in ("grad", "weight"):
            return None
        base = self.dice.pick(self.scope.data).term()
        form = self.dice.below(4)
        if form == 3 and self.scope.has_state:
            node = self.call("ema", base.node, self.setting("decay"))
            return Term(node, FULL, base.bound, Phase.STREAM, FULL)
        if form == 2:
            rest = times(constant("0.1"), self.squashed(self.number(FULL, 1)))
            return plus(base, rest)
        return base

    def call(self, function: str, *arguments: ast.Expression, **keywords: ast.Expression) -> ast.Expression:
        node = call_node(function, *arguments, **keywords)
        return piped(node) if self.dice.chance(12) else node

    # Sizes

    def squashed(self, term: Term) -> Term:
        """The term between -1 and 1 in some way."""
        x, one = term.node, ast.Number("1")
        root = call_node("sqrt", ast.Binary("+", one, ast.Binary("^", x, ast.Number("2"))))
        forms: list[Callable[[], ast.Expression]] = [
            lambda: call_node("tanh", x),
            lambda: ast.Binary("/", x, root),
            # The sine of a large number keeps its absolute error, which is large.
            lambda: call_node("sin" if term.bound <= LIMIT else "tanh", x),
            lambda: ast.Binary("/", x, ast.Binary("+", one, call_node("abs", x))),
            lambda: call_node("clamp", x, literal_minus_one(), one),
            lambda: call_node("max", call_node("min", x, one), literal_minus_one()),
        ]
        return elementwise(self.dice.pick(forms[:3] if self.scope.is_smooth else forms)(), 1, term)

    def tamed(self, term: Term) -> Term:
        """The term, made smaller if it may be too large."""
        if term.bound <= LIMIT:
            return term
        if term.bound <= 20 * LIMIT and self.dice.chance(50):
            return times(constant("0.05"), term)
        return self.squashed(term)

    def small(self, term: Term) -> Term:
        return term if term.bound <= 2 else self.squashed(term)


def literal_minus_one() -> ast.Expression:
    return ast.Unary("-", ast.Number("1"))
