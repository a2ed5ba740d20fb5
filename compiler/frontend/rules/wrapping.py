"""Wrappers around rules: what is wrapped and what wraps it in, rules without any wrapper out.

Each rule of the wrapped optimizer is put together with the rule of the wrapper for the same roles: its gradient
becomes the argument of ``step``, its new weight the value of that, and the wrapper's result is that of the whole.
Equations of a wrapper are told by its label from all others, so that neither sees the other's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from optforge.compiler.frontend.blocks import Machine
from optforge.compiler.frontend.builtins import UNIVERSAL
from optforge.compiler.frontend.expressions import Lookup, Place
from optforge.compiler.frontend.hyperparameters import Hypers, fill_holes, hole_name
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawEvent, RawRule
from optforge.compiler.frontend.rules.collecting import (
    Definition,
    FlatEvent,
    FlatRule,
)
from optforge.compiler.frontend.rules.compositions import Layer, with_names
from optforge.compiler.frontend.rules.directions import NAMED, turn
from optforge.compiler.frontend.rules.resolving import (
    roles_of,
    rule_of,
    with_concerning_events,
)
from optforge.compiler.frontend.rules.wrappers import FlatWrapper
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import number
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Kind, Universe
from optforge.dsl import ast, errors
from optforge.dsl.source import Span

# What `step` stands for until a wrapper meets what it wraps; no equation of a wrapper has a layer before that.
RESULT = EquationName.of("weight", layer="step")
GRAD = UNIVERSAL["grad"]
Line = ast.Binding | ast.Update
WHOLE_STEP = ("scale_free", "equivariant", "cost", "state", "communicates")


class WrapperMachine(Machine):
    """The equations of a wrapper's rule, in which ``step`` stands for what is wrapped; ``fed`` is its gradient."""

    fed: ir.Expr = GRAD
    given: dict[str, ir.Expr]

    def __init__(
        self, rule: FlatRule, events: Mapping[str, FlatEvent], hypers: Mapping[str, ir.Expr], report: Report
    ) -> None:
        super().__init__(rule.block, events, "step", hypers, report, words=rule.words, orientation=rule.orientation)
        self.given = {}

    def place(self, definition: Definition, path: EquationName) -> Place:
        return replace(super().place(definition, path), step=self.called)

    def called(self, node: ast.Call, place: Place) -> ir.Expr:
        """A call of ``step``; what it is given has a name, for the wrapped optimizer may read it often."""
        if len(node.arguments) != 1:
            problem = "takes the gradient of the optimizer that is wrapped, and hyperparameters by name"
            self.report(errors.wrong_arity("step", "step(grad)", problem, node.span))
            return number("0", node.span)
        self.fed = self.named("grad", place.expression(node.arguments[0]), node.arguments[0].span)
        for keyword, value in node.keywords:
            if keyword.name in self.given:
                self.report(errors.bad_keyword("step", keyword.name, "is given twice the argument", keyword.span, ()))
            inside = replace(place, lookup=partial(self.lookup_given, keyword.name, place.lookup))
            self.given[keyword.name] = self.named(keyword.name, inside.expression(value), value.span)
        return ir.Ref(RESULT, span=node.span)

    def lookup_given(self, keyword: str, lookup: Lookup, name: ast.Name) -> ir.Expr | None:
        """In what a hyper of the wrapped optimizer is given, ``super`` is what it is without that."""
        return ir.Ref(hole_name(keyword), span=name.span) if name.name == "super" else lookup(name)

    def named(self, word: str, value: ir.Expr, span: Span) -> ir.Expr:
        if isinstance(value, ir.Literal | ir.Ref) or value == GRAD:
            return value
        name = self.equations.fresh(EquationName.of("step", word))
        self.equations.define(name, value, span)
        return ir.Ref(name, span=span)

    def super_value(self, name: ast.Name, definition: Definition, path: EquationName) -> ir.Expr:
        """``super`` in the equation ``direction`` is the direction of the wrapped optimizer."""
        if path.root == NAMED:
            return ir.Ref(NAMED.inside("super"), span=name.span)
        hint = "`direction` alone replaces something of the wrapped optimizer"
        self.report(errors.no_super("a wrapper extends nothing", name.span, hint))
        return number("0", name.span)


# Putting rules together


def wrap_rules(rules: Sequence[RawRule], flat: FlatWrapper, hypers: Hypers, report: Report) -> list[RawRule]:
    """The rules with a wrapper around those that it is for; ``hypers`` are those of the whole."""
    own_names = flat.layer.hypers.items()
    values = Hypers({name: hypers.values[outside] for name, outside in own_names if outside in hypers.values})
    pairs = [pair for rule in rules for pair in parted(rule, flat, rules)]
    machines = [None if own is None else WrapperMachine(own, flat.events, values.values, report) for _, own in pairs]
    outer = [
        rule_of(machine, own, rule.roles, flat.events, values, report, flat.layer.label)
        for (rule, own), machine in zip(pairs, machines, strict=True)
        if own is not None and machine is not None
    ]
    around = iter(with_concerning_events(outer) if outer else [])
    require_known(flat, machines, pairs, report)
    kinds = {(ir.InputSource.HYPER, name): hyper.kind for name, hyper in hypers.visible.items()}
    return [
        rule if machine is None else Composition(rule, machine, next(around), flat.layer, kinds, report).whole()
        for (rule, _), machine in zip(pairs, machines, strict=True)
    ]


Pair = tuple[RawRule, FlatRule | None]


def parted(rule: RawRule, flat: FlatWrapper, all_rules: Sequence[RawRule]) -> Iterator[Pair]:
    """The rule in as many parts as a wrapper treats its roles differently, each with the wrapper's rule for it."""
    left = rule.roles
    only = roles_of(flat.layer.only, set(flat.layer.only))
    taken = {each.name for each in all_rules if each is not rule}
    for own in flat.rules:
        shared = tuple(role for role in left if role in roles_of(own.words, flat.taken) and (not only or role in only))
        if shared:
            left = tuple(role for role in left if role not in shared)
            yield part_of(rule, shared, flat.layer.only or own.words, taken), own
    if left:
        words = ("rest",) if rule.name == "tensor" else tuple(word for word in rule.words if word in left)
        yield part_of(rule, left, words, taken), None


def part_of(rule: RawRule, roles: tuple[str, ...], words: tuple[str, ...], taken: set[str]) -> RawRule:
    """The rule for some of its roles, under a name that no other rule has; it is ``taken`` then."""
    if roles == rule.roles:
        return rule
    wanted = [*words, *roles, *(f"{rule.name}_{role}" for role in roles)]
    name = next(text for text in wanted if text not in taken)
    taken.add(name)
    return replace(rule, roles=roles, words=words or roles, name=name)


def require_known(
    flat: FlatWrapper, machines: Iterable[WrapperMachine | None], pairs: Iterable[Pair], report: Report
) -> None:
    """What ``step`` gives a hyper reaches some rule, or is 0 or false: then there is nothing to be taken away."""
    given = {name: value for machine in machines if machine for name, value in machine.given.items()}
    for name, value in given.items():
        is_nothing = isinstance(value, ir.Literal) and value.value in (0, False)
        if not is_nothing and not any(name in rule.holes for rule, _ in pairs):
            known = {name for rule, _ in pairs for name in rule.holes}
            problem = "is around an optimizer that has no hyperparameter"
            report(errors.bad_keyword(flat.layer.label, name, problem, flat.layer.span, known))


@dataclass
class Composition:
    """One rule of a wrapped optimizer, and the rule of the wrapper that goes around it."""

    inner: RawRule
    machine: WrapperMachine
    outer: RawRule
    layer: Layer
    kinds: dict[ir.Key, Kind]
    report: Report

    def whole(self) -> RawRule:
        inner, outer = self.inner, self.outer
        lines = tuple(with_names(each, self.shown) for each in outer.written if isinstance(each, Line))
        around = ast.Wrapper(ast.Identifier(self.layer.label), (ast.Rule((), lines),))
        return replace(
            inner,
            universe=self.universe,
            orientation=self.orientation(),
            rank=self.inner.rank or self.outer.rank,
            step=replace(self.step(), rank=self.rank()),
            events=tuple(
                replace(e, function=replace(e.function, universe=self.universe, rank=self.rank()))
                for e in self.events()
            ),
            claims=self.claims(),
            written=(*inner.written, around),
            was=(*inner.was, *outer.was),
        )

    @property
    def universe(self) -> Universe:
        is_matrix = Universe.MATRIX in (self.inner.universe, self.outer.universe)
        return Universe.MATRIX if is_matrix else Universe.TENSOR

    def orientation(self) -> str:
        """How both see matrices; what looks at no side of them sees them as well in either way."""
        inner, outer = self.inner.orientation, self.outer.orientation
        if inner != outer and sees_sides(self.inner) and sees_sides(self.outer):
            ways = [f"`as {way}`" if way else "as they are" for way in (outer, inner)]
            words = f"`{self.layer.label}` sees matrices {ways[0]}, and what it wraps sees them {ways[1]}"
            self.report(errors.bad_orientation(words, self.layer.span))
        return inner or outer

    def rank(self) -> str:
        """What the dimension of its own is called that one of both declares."""
        if self.inner.rank and self.outer.rank:
            words = f"`{self.layer.label}` declares a dimension, and so does what it wraps"
            self.report.once(errors.bad_dimension(words, self.layer.span), f"{self.layer.label} has a dimension")
        return self.inner.step.rank or self.outer.step.rank

    def shown(self, name: str) -> str:
        """What a value of the wrapper is called in the words of the whole."""
        return self.layer.hypers.get(name, name)

    # The wrapper's side

    def label(self, name: EquationName) -> EquationName:
        return name if name.layer else replace(name, layer=self.layer.label)

    def labelled(self, expr: ir.Expr) -> ir.Expr:
        """An expression of the wrapper among those of the whole."""

        def change(node: ir.Expr) -> ir.Expr:
            match node:
                case ir.Ref(name=name):
                    return replace(node, name=self.label(name))
                case ir.Latest(stream=stream):
                    return replace(node, stream=ir.StreamRef(stream.machine, self.label(stream.name)))
                case ir.Prev(stream=stream, binding=binding):
                    remembered = change(stream)
                    assert isinstance(remembered, ir.Ref | ir.Input)
                    return replace(node, stream=remembered, binding=self.label(binding))
                case _:
                    return node

        return ir.transform(change, expr)

    def labelled_function(self, function: ir.Function) -> ir.Function:
        named = tuple(replace(each, name=self.label(each.name)) for each in function.equations)
        return ir.map_expressions(self.labelled, replace(function, equations=named))

    # The wrapped side

    def fed(self, expr: ir.Expr) -> ir.Expr:
        """An expression of the wrapped optimizer, with what it is given in the place of its gradient and hypers."""
        fed = self.labelled(self.machine.fed)

        def change(node: ir.Expr) -> ir.Expr:
            if isinstance(node, ir.Prev) and node.stream == GRAD:
                assert isinstance(fed, ir.Ref | ir.Input)
                return replace(node, stream=fed)
            return replace(fed, span=node.span) if node == GRAD else node

        filled = fill_holes({name: self.labelled(value) for name, value in self.machine.given.items()}, expr)
        return filled if fed == GRAD else ir.transform(change, filled)

    # Both

    def step(self) -> ir.Function:
        """The equations of both, and the wrapper's result."""
        inner, outer = self.inner.step, self.labelled_function(self.outer.step)
        own: tuple[ir.Equation, ...] = outer.equations
        if NAMED in {equation.name for equation in self.outer.step.equations}:
            inner, before = self.turned()
            own = (*own, ir.Equation(self.label(NAMED.inside("super")), self.fed(before), before.span))
        inner = ir.map_expressions(self.fed, inner)
        result = next((output.value for output in inner.outputs), UNIVERSAL["weight"])

        def put_result(expr: ir.Expr) -> ir.Expr:
            return ir.transform(lambda n: result if isinstance(n, ir.Ref) and n.name == RESULT else n, expr)

        whole = replace(outer, universe=self.universe, equations=own)
        whole = ir.map_expressions(put_result, whole)
        return replace(whole, equations=(*inner.equations, *whole.equations))

    def turned(self) -> tuple[ir.Function, ir.Expr]:
        """The wrapped step with the wrapper's direction, and the direction that it had."""
        turned = turn(self.inner, ir.Ref(self.label(NAMED)), self.kinds)
        if turned is not None:
            return turned.step, turned.direction
        if not self.report.failed:
            self.report(errors.no_direction(self.layer.label, self.inner.words, self.layer.span))
        return self.inner.step, GRAD

    def events(self) -> Iterator[RawEvent]:
        """The events of both; one call fires two of one name, of which one alone may set the weight."""
        outer = {event.name: event for event in self.outer.events}
        for event in self.inner.events:
            other = outer.pop(event.name, None)
            yield event if other is None else self.merged(event, other)
        for event in outer.values():
            yield replace(event, function=self.labelled_function(event.function))

    def merged(self, inner: RawEvent, outer: RawEvent) -> RawEvent:
        function = self.labelled_function(outer.function)
        if inner.function.outputs and function.outputs:
            self.report(errors.clashing_events(inner.name, self.layer.label, self.layer.span, inner.span))
        known = {each.name: each for each in inner.parameters}
        for argument in outer.parameters:
            other = known.setdefault(argument.name, argument)
            if (other.kind, other.shape, other.default) != (argument.kind, argument.shape, argument.default):
                self.report(errors.two_signatures(inner.name, argument.name, self.layer.span, inner.span))
        equations = (*inner.function.equations, *function.equations)
        outputs = inner.function.outputs or function.outputs
        both = replace(inner.function, equations=equations, outputs=outputs)
        return replace(inner, parameters=tuple(known.values()), function=both, doc=inner.doc or outer.doc)

    def claims(self) -> tuple[ir.Claim, ...]:
        """What holds of the whole: of streams of either, what each promises; of the step, what both do.

        What the wrapped optimizer promises of the gradient or the weight need not hold of those that it now gets.
        """
        own = [replace(claim, promise=self.labelled(claim.promise)) for claim in self.outer.claims]
        claims = [claim for claim in own if claim.form not in WHOLE_STEP]
        for claim in self.inner.claims:
            if claim.form in WHOLE_STEP:
                claims += [both for other in own if (both := together(claim, other)) is not None]
            elif not any(isinstance(node, ir.Input) and node in STREAMS for node in ir.walk(claim.promise)):
                claims.append(replace(claim, promise=self.fed(claim.promise)))
        return tuple(claims)


def sees_sides(rule: RawRule) -> bool:
    """Whether a rule's equations tell the rows of a matrix from its columns."""
    functions = (rule.step, *(event.function for event in rule.events))
    return any(
        (isinstance(node, ir.Input) and node.source is ir.InputSource.DIMENSION)
        or (isinstance(node, ir.Apply) and node.operator != ir.ROUND and OPERATORS[node.operator].needs_matrix)
        or (isinstance(node, ir.Literal) and node.type.kind is Kind.AXIS and node.value in ("row", "col"))
        for function in functions
        for node in ir.nodes(function)
    )


STREAMS = (GRAD, UNIVERSAL["weight"])


def together(inner: ir.Claim, outer: ir.Claim) -> ir.Claim | None:
    """What two claims of one form say of a step that is made of both: costs and states add up.

    What ranks send of it follows from neither, as the owner of a matrix may compute what is between the two.
    """
    if inner.form != outer.form or inner.form == "communicates":
        return None
    if inner.form not in ("cost", "state"):
        return inner if inner.promise == outer.promise else None
    if isinstance(outer.promise, ir.Literal) and outer.promise.value == 0:
        return inner
    sizes = [each.written.arguments[0] for each in (inner, outer) if isinstance(each.written, ast.Call)]
    written = ast.Call(ast.Identifier(inner.form), (ast.Binary("+", *sizes),), span=inner.span)
    return replace(inner, written=written, promise=ir.Apply("add", (inner.promise, outer.promise), span=inner.span))
