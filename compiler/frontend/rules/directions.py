"""The direction of a rule: what is subtracted from the weight, without the factors that say how far, and without decay.

In: a rule whose result is, by its form, ``weight - size * (direction + decay * weight)`` or like it. Out: the rule with
another stream in the place of the direction, and the direction. The form is that of the equations as they are written,
through those that only give a part of it a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optforge.compiler.frontend.hyperparameters import hole_name
from optforge.compiler.frontend.resolved import RawRule
from optforge.compiler.frontend.types.inference import Inference, silent
from optforge.compiler.frontend.types.recursive import Part, settle_types
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import read_argument
from optforge.compiler.ir.dependencies import reachable, references
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import SCALAR, Kind

NAMED = EquationName.of("direction")


@dataclass(frozen=True, slots=True)
class Turned:
    """A rule's step with a new direction, and the one that it had."""

    step: ir.Function
    direction: ir.Expr


def turn(rule: RawRule, into: ir.Expr, kinds: dict[ir.Key, Kind]) -> Turned | None:
    """The step with ``into`` in place of its direction; None where its form tells none."""
    names = {equation.name for equation in rule.step.equations}
    if NAMED in names:
        return Turned(ir.map_expressions(lambda value: put_for(NAMED, into, value), rule.step), ir.Ref(NAMED))
    finder = Finder(rule, into, kinds)
    output, *others = rule.step.outputs
    result = finder.in_result(output.value)
    if result is None or finder.direction is None:
        return None
    equations = tuple(replace(e, value=finder.changed.get(e.name, e.value)) for e in rule.step.equations)
    step = replace(rule.step, equations=equations, outputs=(replace(output, value=result), *others))
    return Turned(step, finder.direction)


def put_for(name: EquationName, into: ir.Expr, value: ir.Expr) -> ir.Expr:
    """The expression with something else in place of an equation; its state stays what it is."""
    return ir.transform(lambda node: into if isinstance(node, ir.Ref) and node.name == name else node, value)


class Finder:
    """Looks for the direction; ``changed`` are the equations that read it, with the new one in its place."""

    def __init__(self, rule: RawRule, into: ir.Expr, kinds: dict[ir.Key, Kind]) -> None:
        self.into = into
        self.values = {equation.name: equation.value for equation in rule.step.equations} | {
            hole_name(name): value for name, value in rule.holes.items()
        }
        self.inference = types_of(rule, kinds)
        self.decays: dict[EquationName, bool] = {}
        self.visited: set[EquationName] = set()
        self.changed: dict[EquationName, ir.Expr] = {}
        self.direction: ir.Expr | None = None

    def in_result(self, expr: ir.Expr) -> ir.Expr | None:
        """The new weight with another direction; None where there is none to be seen."""
        match expr:
            case ir.Apply(operator="sub" | "add" as sign, arguments=(kept, moved)):
                if self.is_decay(kept):
                    return self.rebuilt(expr, 1, self.in_step(moved, False, is_added=sign == "add"))
                if self.is_decay(moved):
                    visited = set(self.visited)
                    if (result := self.in_result(kept)) is None and sign == "add":
                        self.visited = visited
                        result = self.in_step(kept, False, is_added=True)
                    return self.rebuilt(expr, 0, result)
            case ir.Apply(operator="mul" | "div", arguments=(kept, factor)) if self.is_scalar(factor):
                return self.rebuilt(expr, 0, self.in_result(kept))
            case ir.Apply(operator="mul", arguments=(factor, kept)) if self.is_scalar(factor):
                return self.rebuilt(expr, 1, self.in_result(kept))
            case ir.Select(then=then, otherwise=otherwise):
                if self.is_decay(otherwise):
                    return self.rebuilt(expr, 1, self.in_result(then))
                if self.is_decay(then):
                    return self.rebuilt(expr, 2, self.in_result(otherwise))
            case ir.Ref(name=name) if self.enters(name):
                return self.through(expr, self.in_result(self.values[name]))
        return None

    def in_step(self, expr: ir.Expr, is_sized: bool, is_added: bool = False) -> ir.Expr | None:
        """What is subtracted, with another direction; ``is_sized`` once a hyper was seen that says how far it goes."""
        match expr:
            case ir.Apply(operator="neg", arguments=(inner,)):
                return self.rebuilt(expr, 0, self.in_step(inner, is_sized, not is_added))
            case ir.Apply(operator="sub" | "add" as sign, arguments=(first, second)):
                if self.is_decay(second):
                    return self.rebuilt(expr, 0, self.in_step(first, is_sized, is_added))
                if self.is_decay(first):
                    is_added ^= sign == "sub"
                    return self.rebuilt(expr, 1, self.in_step(second, is_sized, is_added))
            case ir.Apply(operator="mul" | "div", arguments=(first, second)):
                if self.is_scalar(second):
                    return self.rebuilt(expr, 0, self.in_step(first, is_sized or self.has_hyper(second), is_added))
                if self.is_scalar(first) and expr.operator == "mul":
                    return self.rebuilt(expr, 1, self.in_step(second, is_sized or self.has_hyper(first), is_added))
                if (apart := self.apart(expr)) is not None:
                    return self.in_step(apart, is_sized, is_added)
            case ir.Ref(name=name) if not is_sized or self.has_decay(self.values.get(name, expr)):
                if self.enters(name):
                    return self.through(expr, self.in_step(self.values[name], is_sized, is_added))
        return self.found(expr, is_added) if is_sized else None

    def found(self, expr: ir.Expr, is_added: bool) -> ir.Expr:
        """The new direction where the old one stood; both are what is subtracted."""
        self.direction = ir.Apply("neg", (expr,), span=expr.span) if is_added else expr
        return ir.Apply("neg", (self.into,), span=expr.span) if is_added else self.into

    def apart(self, product: ir.Expr) -> ir.Expr | None:
        """``(lr * a) * b`` as ``lr * (a * b)``: scalars before what has elements; None where there are none."""
        match product:
            case ir.Apply(operator="mul" | "div" as operator, arguments=(first, second)):
                inner = self.apart(first) or first
                match inner:
                    case ir.Apply(operator="mul", arguments=(scale, rest)) if self.is_scalar(scale):
                        return ir.Apply("mul", (scale, ir.Apply(operator, (rest, second), span=product.span)))
                    case ir.Apply(operator="div", arguments=(rest, scale)) if self.is_scalar(scale):
                        return ir.Apply("div", (ir.Apply(operator, (rest, second), span=product.span), scale))
        return None

    def rebuilt(self, expr: ir.Expr, place: int, child: ir.Expr | None) -> ir.Expr | None:
        """The node with one of its children replaced."""
        if child is None:
            return None
        children = iter([child if index == place else each for index, each in enumerate(ir.children(expr))])
        return ir.map_children(lambda _: next(children), expr)

    def enters(self, name: EquationName) -> bool:
        """Whether there is an equation of that name in which nothing was looked for yet."""
        is_new = name in self.values and name not in self.visited
        self.visited.add(name)
        return is_new

    def through(self, reference: ir.Ref, value: ir.Expr | None) -> ir.Expr | None:
        """The reference itself, whose equation has become another."""
        if value is not None:
            self.changed[reference.name] = value
        return None if value is None else reference

    def is_decay(self, expr: ir.Expr) -> bool:
        """Whether this is a multiple of the weight, by its form."""
        match expr:
            case ir.Input():
                return expr.key == ir.WEIGHT
            case ir.Apply(operator="neg", arguments=(inner,)):
                return self.is_decay(inner)
            case ir.Apply(operator="add" | "sub", arguments=parts):
                return all(map(self.is_decay, parts))
            case ir.Apply(operator="mul", arguments=(first, second)):
                return self.is_decay(first) != self.is_decay(second)
            case ir.Apply(operator="div", arguments=(first, _)):
                return self.is_decay(first)
            case ir.Ref(name=name) if name in self.values:
                if name not in self.decays:
                    self.decays[name] = False  # as long as it is being found out
                    self.decays[name] = self.is_decay(self.values[name])
                return self.decays[name]
            case _:
                return False

    def has_decay(self, expr: ir.Expr) -> bool:
        """Whether this is a sum that a multiple of the weight is part of."""
        match expr:
            case ir.Apply(operator="add" | "sub", arguments=(first, second)):
                return self.is_decay(first) != self.is_decay(second)
            case _:
                return False

    def is_scalar(self, expr: ir.Expr) -> bool:
        return self.inference.typed(expr).type.shape == SCALAR

    def has_hyper(self, expr: ir.Expr) -> bool:
        """Whether a hyperparameter is read, be it through other equations."""
        graph = {name: references(value) for name, value in self.values.items()}
        read = [expr, *(self.values[name] for name in reachable(graph, references(expr)) if name in self.values)]
        return any(
            isinstance(node, ir.Input) and node.source is ir.InputSource.HYPER
            for value in read
            for node in ir.walk(value)
        )


def types_of(rule: RawRule, kinds: dict[ir.Key, Kind]) -> Inference:
    """What finds the types of expressions in a rule; what does not fit there is reported when all is checked."""
    holes = tuple(ir.Equation(hole_name(name), value) for name, value in rule.holes.items())
    step = replace(rule.step, equations=(*rule.step.equations, *holes))
    parts = [Part("step", step, kinds)]
    for event in rule.events:
        arguments = {read_argument(each).key: each.kind for each in event.parameters}
        parts.append(Part(event.name, event.function, kinds | arguments))
    known = settle_types(rule.universe, parts).types
    return Inference("step", rule.universe, "", known, kinds, {}, silent, is_settled=False)
