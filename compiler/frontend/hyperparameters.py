"""Hyperparameters: their kinds, defaults and conditions, and what ``use`` binds or shows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optforge.compiler.frontend.builtins import universal
from optforge.compiler.frontend.equations import Equations
from optforge.compiler.frontend.expressions import Lookup, Place
from optforge.compiler.frontend.inheritance import FlatOptimizer
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.reserved_names import require_usable_name
from optforge.compiler.frontend.resolved import RawRule, RawWas
from optforge.compiler.frontend.rules.collecting import FlatRule
from optforge.compiler.frontend.scopes import Scope
from optforge.compiler.frontend.types.inference import kind_hint
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import number
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Kind
from optforge.dsl import ast, errors


@dataclass
class Hypers:
    """The hypers of an optimizer as its rules see them, and what is visible from outside.

    Names are visible below those of the rules that use the optimizer: `prefix` is `matrix_rest_` for the second of two.
    """

    values: dict[str, ir.Expr] = field(default_factory=dict)
    visible: dict[str, ir.Hyper] = field(default_factory=dict)
    requirements: dict[ir.Expr, ir.Requirement] = field(default_factory=dict)
    past: dict[str, RawWas] = field(default_factory=dict)  # what the visible hypers of used optimizers were
    prefix: str = ""
    holes: frozenset[str] = frozenset()  # those to which wrappers around the rules give other values

    def in_step(self) -> dict[str, ir.Expr]:
        """What the names of hypers stand for in a step."""
        holes = {name: ir.Ref(hole_name(name), span=value.span) for name, value in self.filled().items()}
        return self.values | holes

    def filled(self) -> dict[str, ir.Expr]:
        """What those stand for to which wrappers may give other values."""
        return {name: value for name, value in self.values.items() if name in self.holes}


def own_hypers(declared: Mapping[str, tuple[ast.Hyper, Scope]], report: Report) -> Hypers:
    """Hypers of a declaration itself: each is an input of its own name."""
    hypers = Hypers()
    for name, (node, _) in declared.items():
        require_usable_name(node.name, "hyperparameter", report)
        hypers.visible[name] = resolve_hyper(name, node, report)
        hypers.values[name] = ir.Input(name, ir.InputSource.HYPER, span=node.name.span)
    for name, (node, scope) in declared.items():
        add_requirement(name, node, scope, hypers.values, hypers.requirements, report)
    return hypers


def resolve_hyper(name: str, node: ast.Hyper, report: Report) -> ir.Hyper:
    default = resolve_default(node, report) if node.default else None
    choices = closed_set(node)
    kind = default.type.kind if default else Kind.TEXT if choices else Kind.NUMBER
    if kind is Kind.TEXT and node.default and not choices:
        help_text = f'name the strings that are allowed: `where {name} in ("...", "...")`'
        report(errors.bad_default(name, "is a string of no closed set", node.default.span, help_text))
    return ir.Hyper(name, default, kind, node.doc.value if node.doc else "", node.name.span, choices)


def closed_set(node: ast.Hyper) -> tuple[str, ...]:
    """The strings that the condition of a hyper allows; none if it is not of the form ``name in ("a", "b")``."""
    match node.condition:
        case ast.Member(item=ast.Name(name=name), choices=ast.Tuple(items=items)) if name == node.name.name:
            return tuple(item.value for item in items if isinstance(item, ast.Text))
        case _:
            return ()


def resolve_default(node: ast.Hyper, report: Report) -> ir.Literal | None:
    """The literal of a default: a number (possibly negative), true, false or a string."""
    match node.default:
        case ast.Number() | ast.Boolean() | ast.Text() as simple:
            place = Place(Scope(None), universal, Equations(report.growth), report, EquationName.of("default"))
            literal = place.expression(simple)
            return literal if isinstance(literal, ir.Literal) else None
        case ast.Unary(operator="-", operand=ast.Number(spelling=spelling)):
            return number(f"-{spelling}", node.default.span)
        case ast.Name(name="pi"):
            return number("3.141592653589793", node.default.span)
        case ast.Unary(operator="-", operand=ast.Name(name="pi")):
            return number("-3.141592653589793", node.default.span)
        case None:
            return None
        case _:
            hint = {"True": "write `true`", "False": "write `false`"}.get(node.default.span.text)
            if isinstance(node.default, ast.Binary | ast.Call | ast.Select):
                hint = f"it is not computed: write its value, or `{node.name.name} = ...` in the rule as an equation"
            problem = "must be a number, true, false or a string"
            report(errors.bad_default(node.name.name, problem, node.default.span, hint))
            return None


def add_requirement(
    name: str,
    node: ast.Hyper,
    scope: Scope,
    values: Mapping[str, ir.Expr],
    requirements: dict[ir.Expr, ir.Requirement],
    report: Report,
) -> None:
    """The condition of a hyper, in terms of what its names stand for."""
    if node.condition is None:
        return
    equations = Equations(report.growth)
    place = Place(
        scope, hyper_lookup(values, scope), equations, report, EquationName.of("where"), lambda: values,
        state=False, totals=False, what="a condition",
    )  # fmt: skip
    condition = equations.written_out(place.expression(node.condition), node.condition.span, report)
    subject = values[node.name.name]
    shown = subject.name if isinstance(subject, ir.Input) else name
    requirements.setdefault(condition, ir.Requirement(shown, subject, condition, node.condition.span))


def hyper_lookup(values: Mapping[str, ir.Expr], scope: Scope) -> Lookup:
    """Lookup for places that see hypers and nothing else."""

    def lookup(name: ast.Name) -> ir.Expr | None:
        if name.name not in values:
            return universal(name) if name.name == "pi" else None
        scope.references.record(name.span, "hyper", values[name.name].span)
        return values[name.name]

    return lookup


# Hypers that wrappers change


def hole_name(name: str) -> EquationName:
    """What stands for a hyper in the equations of a rule, as long as a wrapper may give it another value."""
    return EquationName.of(name, layer="hyper")


def fill_holes(values: Mapping[str, ir.Expr], expr: ir.Expr) -> ir.Expr:
    """The expression with these values in the place of hypers."""
    known = {hole_name(name): value for name, value in values.items()}
    return ir.transform(lambda node: known.get(node.name, node) if isinstance(node, ir.Ref) else node, expr)


# Delegates


def delegate_hypers(
    rule: FlatRule, node: ast.Delegate, scope: Scope, flat: FlatOptimizer, outer: Hypers, report: Report
) -> Hypers:
    """What each hyper of the used optimizer stands for: the value bound here, or a visible hyper of its own."""
    bound: dict[str, ir.Expr] = {}
    if node.arguments:
        signature = f"{flat.name}(hyper=value, ...)"
        report(errors.wrong_arity(flat.name, signature, "takes its hypers by name", node.arguments[0].span))
    for keyword, value in node.keywords:
        if keyword.name not in flat.hypers:
            report(errors.bad_keyword(flat.name, keyword.name, "has no hyperparameter", keyword.span, flat.hypers))
            continue
        meant, _ = flat.hypers[keyword.name]
        scope.references.record(keyword.span, "hyper", meant.name.span, meant.doc)
        if keyword.name in bound:
            report(errors.bad_keyword(flat.name, keyword.name, "is given twice the argument", keyword.span, ()))
        equations = Equations(report.growth)
        place = Place(
            scope, hyper_lookup(outer.values, scope), equations, report, EquationName.of("use"), lambda: outer.values,
            state=False, totals=False, what="the arguments of `use`",
        )  # fmt: skip
        given = equations.written_out(place.expression(value), value.span, report)
        if require_same_kind(keyword.name, flat, given, outer, report):
            bound[keyword.name] = given
    inner = Hypers(prefix=f"{outer.prefix}{rule.words[0]}_", holes=outer.holes)
    for name, (declared, _) in flat.hypers.items():
        if name in bound:
            inner.values[name] = bound[name]
        else:
            visible = f"{inner.prefix}{name}"
            inner.values[name] = ir.Input(visible, ir.InputSource.HYPER, span=declared.name.span)
            inner.visible[visible] = replace(resolve_hyper(name, declared, report), name=visible)
    for name, (declared, declared_scope) in flat.hypers.items():
        add_requirement(name, declared, declared_scope, inner.values, inner.requirements, report)
    return inner


def require_same_kind(name: str, flat: FlatOptimizer, given: ir.Expr, outer: Hypers, report: Report) -> bool:
    """What ``use`` gives a hyper must be of its kind, and a string one of those that it may be."""
    wanted = resolve_hyper(name, flat.hypers[name][0], Report())
    place, found = f"`{name}` of `{flat.name}`", kind_of(given, outer)
    if found is not wanted.kind:
        hint = kind_hint(wanted.kind, found, given.span)
        report(errors.wrong_kind(place, wanted.kind.value, found.value, given.span, hint))
        return False
    possible: tuple[str, ...] = ()
    if isinstance(given, ir.Literal) and found is Kind.TEXT:
        possible = (str(given.value),)
    elif isinstance(given, ir.Input) and given.name in outer.visible:
        possible = outer.visible[given.name].choices
    for value in possible:
        if value not in wanted.choices:
            report(errors.unknown_choice(place, value, wanted.choices, given.span))
    return True


def kind_of(expr: ir.Expr, hypers: Hypers) -> Kind:
    """The kind of a value that hypers and literals make up."""
    match expr:
        case ir.Literal():
            return expr.type.kind
        case ir.Input(name=name) if name in hypers.visible:
            return hypers.visible[name].kind
        case ir.Select(then=then):
            return kind_of(then, hypers)
        case ir.Apply(operator=operator) if OPERATORS[operator].boolean:
            return Kind.BOOLEAN
        case _:
            return Kind.NUMBER


def adopt_hypers(rules: list[RawRule], inner: Hypers, outer: Hypers, node: ast.Delegate, report: Report) -> None:
    """Show outside the hypers of a used optimizer that the chosen rules read, with their conditions."""
    used = {
        node.name
        for rule in rules
        for function in (rule.step, *(event.function for event in rule.events))
        for node in (*ir.nodes(function), *(part for value in rule.holes.values() for part in ir.walk(value)))
        if isinstance(node, ir.Input) and node.source is ir.InputSource.HYPER
    }
    for condition, requirement in inner.requirements.items():
        names = {n.name for n in ir.walk(condition) if isinstance(n, ir.Input)}
        if names <= used | set(outer.visible):
            outer.requirements.setdefault(condition, requirement)
    for name, hyper in inner.visible.items():
        if name not in used:
            continue
        if name in outer.visible:
            report(errors.duplicate("hyperparameter", name, node.optimizer.span, outer.visible[name].span))
        outer.visible.setdefault(name, hyper)
        if name in inner.past:
            outer.past.setdefault(name, inner.past[name])
