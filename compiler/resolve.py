"""Names get their meaning: surface tree in, untyped IR out.

``extends`` and ``use`` are written out, functions inlined, every name bound to an input or an
equation. What comes out still has ``prev`` nodes and no types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from optforge.compiler import ir
from optforge.compiler.flatten import (
    ROLES,
    Block,
    Definition,
    FlatEvent,
    FlatOptimizer,
    FlatRule,
    collect_block,
    collect_hypers,
    collect_rules,
    flatten_optimizer,
)
from optforge.compiler.inline import CLAIM_FORMS, UNIVERSAL, Equations, Place, number, overrides_prelude, universal
from optforge.compiler.library import Report, Scope, scope_of
from optforge.compiler.names import require_usable_function_name, require_usable_name
from optforge.compiler.types import Kind, Universe
from optforge.dsl import ast, errors
from optforge.dsl.printer import print_expression
from optforge.dsl.source import Span

TENSOR_WORDS = {"tensor", "rest", "vector"}


@dataclass(frozen=True, slots=True)
class RawEvent:
    name: str
    parameters: tuple[ir.Hyper, ...]
    function: ir.Function
    doc: str


@dataclass(frozen=True, slots=True)
class RawRule:
    """A rule with ``prev`` still in place; memory inputs named ``owner:stream`` read another machine's stream."""

    name: str
    roles: tuple[str, ...]
    words: tuple[str, ...]
    universe: Universe
    step: ir.Function
    events: tuple[RawEvent, ...]
    claims: tuple[ir.Claim, ...]
    text: tuple[str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class RawDeclaration:
    """An optimizer, penalty or schedule (one rule, no roles); ``kind`` says which."""

    kind: str
    name: str
    doc: str
    hypers: tuple[ir.Hyper, ...]
    requirements: tuple[ir.Requirement, ...]
    rules: tuple[RawRule, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class RawProgram:
    doc: str
    declarations: tuple[RawDeclaration, ...]


@dataclass
class Hypers:
    """The hypers of an optimizer as its rules see them, and what is visible from outside."""

    values: dict[str, ir.Expr] = field(default_factory=dict)
    visible: dict[str, ir.Hyper] = field(default_factory=dict)
    requirements: list[ir.Requirement] = field(default_factory=list)


def resolve_file(file: ast.File, folder: Path | None, report: Report) -> RawProgram:
    """All declarations of a file; problems go to ``report``."""
    scope = scope_of(file, folder)
    require_functions(file, scope, report)
    seen: dict[str, Span] = {}
    declarations = []
    for item in file.items:
        if isinstance(item, ast.Function):
            continue
        require_usable_name(item.name, "class", report)
        if item.name.name in seen:
            report(errors.duplicate("class", item.name.name, item.name.span, seen[item.name.name]))
            continue
        seen[item.name.name] = item.name.span
        declarations.append(resolve_item(item, scope, report))
    return RawProgram(file.doc.value if file.doc else "", tuple(declarations))


def resolve_item(item: ast.Optimizer | ast.Schedule | ast.Penalty, scope: Scope, report: Report) -> RawDeclaration:
    match item:
        case ast.Optimizer():
            return resolve_optimizer(flatten_optimizer(item, scope, report), report)
        case ast.Schedule():
            return resolve_schedule(item, scope, report)
        case ast.Penalty():
            return resolve_penalty(item, scope, report)


def require_functions(file: ast.File, scope: Scope, report: Report) -> None:
    """Names, duplicates and recursion of a file's own functions, whether they are called or not."""
    seen: dict[str, Span] = {}
    for item in file.items:
        if not isinstance(item, ast.Function):
            continue
        name = item.name
        require_usable_function_name(name, report)
        if name.name in seen:
            report(errors.duplicate("function", name.name, name.span, seen[name.name]))
        seen.setdefault(name.name, name.span)
        if overrides_prelude(item):
            report(errors.replaces_prelude(name.name, name.span))
        place = Place(scope, lambda unknown: number("0", unknown.span), Equations(), report, "", name.name)
        arguments = tuple(ast.Number("1", span=name.span) for _ in item.parameters)
        place.expression(ast.Call(name, arguments, span=name.span))


# Optimizers


def resolve_optimizer(flat: FlatOptimizer, report: Report) -> RawDeclaration:
    hypers = own_hypers(flat.hypers, report)
    rules = resolve_rules(flat, hypers, report, ())
    return RawDeclaration(
        "optimizer", flat.name, flat.doc, tuple(hypers.visible.values()), tuple(hypers.requirements), rules, flat.span
    )


def own_hypers(declared: Mapping[str, tuple[ast.Hyper, Scope]], report: Report) -> Hypers:
    """Hypers of a declaration itself: each is an input of its own name."""
    hypers = Hypers()
    for name, (node, _) in declared.items():
        require_usable_name(node.name, "hyperparameter", report)
        hypers.visible[name] = resolve_hyper(name, node, report)
        hypers.values[name] = ir.Input(name, ir.Source.HYPER)
    for name, (node, scope) in declared.items():
        add_requirement(name, node, scope, hypers.values, hypers.requirements, report)
    return hypers


def resolve_hyper(name: str, node: ast.Hyper, report: Report) -> ir.Hyper:
    default = resolve_default(node, report) if node.default else None
    kind = default.type.kind if default else Kind.NUMBER
    if default is None and isinstance(node.condition, ast.Member) and isinstance(node.condition.choices, ast.Tuple):
        kind = Kind.TEXT if isinstance(node.condition.choices.items[0], ast.Text) else kind
    if kind is Kind.TEXT and not isinstance(node.condition, ast.Member):
        help_text = f'needs the set of its values: `where {name} in ("...", "...")`'
        report(errors.bad_default(name, help_text, node.default.span if node.default else node.span))
    return ir.Hyper(name, default, kind, node.doc.value if node.doc else "", node.name.span)


def resolve_default(node: ast.Hyper, report: Report) -> ir.Literal | None:
    """The literal of a default: a number (possibly negative), true, false or a string."""
    match node.default:
        case ast.Number() | ast.Boolean() | ast.Text() as simple:
            place = Place(Scope(None), lambda name: number("0", name.span), Equations(), report, "", "")
            literal = place.expression(simple)
            return literal if isinstance(literal, ir.Literal) else None
        case ast.Unary(operator="-", operand=ast.Number(spelling=spelling)):
            return number(f"-{spelling}", node.default.span)
        case ast.Name(name="pi"):
            return number("3.141592653589793", node.default.span)
        case None:
            return None
        case _:
            report(errors.bad_default(node.name.name, "must be a number, true, false or a string", node.default.span))
            return None


def add_requirement(
    name: str,
    node: ast.Hyper,
    scope: Scope,
    values: Mapping[str, ir.Expr],
    requirements: list[ir.Requirement],
    report: Report,
    prefix: str = "",
) -> None:
    """The condition of a hyper, in terms of what its names stand for."""
    if node.condition is None:
        return
    equations = Equations()
    lookup = hyper_lookup(values, report)
    place = Place(scope, lookup, equations, report, "", "", memory=False, totals=False, what="a condition")
    condition = written_out(place.expression(node.condition), equations)
    subject = values[node.name.name]
    shown = subject.name if isinstance(subject, ir.Input) else f"{prefix}{name}"
    requirement = ir.Requirement(shown, subject, condition, node.condition.span)
    if not any(other.condition == condition for other in requirements):
        requirements.append(requirement)


def hyper_lookup(values: Mapping[str, ir.Expr], report: Report):  # type: ignore[no-untyped-def]
    """Lookup for places that see hypers and nothing else."""

    def lookup(name: ast.Name) -> ir.Expr:
        known = values.get(name.name) or (universal(name) if name.name == "pi" else None)
        if known is None:
            report(errors.unknown_name(name.name, name.span, values))
            return number("0", name.span)
        return known

    return lookup


def written_out(expr: ir.Expr, equations: Equations) -> ir.Expr:
    """The expression with the equations its calls left behind put back in."""

    def put_back(node: ir.Expr) -> ir.Expr:
        return written_out(equations.found[node.name].value, equations) if isinstance(node, ir.Ref) else node

    return ir.transform(put_back, expr)


def resolve_rules(flat: FlatOptimizer, hypers: Hypers, report: Report, path: tuple[str, ...]) -> tuple[RawRule, ...]:
    if not flat.rules:
        report(errors.missing_update("weight", flat.span))
    taken = {word for rule in flat.rules for word in rule.words}
    rules: list[RawRule] = []
    for rule in flat.rules:
        roles = roles_of(rule.words, taken)
        if rule.delegate:
            rules.extend(resolve_delegate(rule, roles, hypers, report, (*path, flat.name)))
        else:
            rules.append(resolve_rule(rule, roles, flat.events, hypers, report))
    return tuple(rules)


def roles_of(words: Iterable[str], taken: set[str]) -> tuple[str, ...]:
    """The roles that the words of a ``for`` stand for, given those all rules name."""
    roles: list[str] = []
    for word in words:
        if word == "tensor":
            roles.extend(ROLES)
        elif word == "rest":
            covered = taken | ({"conv"} if "matrix" in taken else set())
            roles.extend(role for role in ROLES if role not in covered)
        elif word == "matrix" and "conv" not in taken:
            roles.extend(("matrix", "conv"))
        else:
            roles.append(word)
    return tuple(role for role in ROLES if role in roles)


def universe_of(words: Iterable[str]) -> Universe:
    return Universe.TENSOR if TENSOR_WORDS & set(words) else Universe.MATRIX


def resolve_rule(
    rule: FlatRule, roles: tuple[str, ...], events: Mapping[str, FlatEvent], hypers: Hypers, report: Report
) -> RawRule:
    """A rule with its own equations, and the events that concern it."""
    machine = Machine(rule.block, events, "step", hypers.values, report)
    machine.check_names()
    if "weight" not in rule.block.updates:
        report(errors.missing_update("weight", rule.span))
    universe = universe_of(rule.words)
    step = machine.function(universe)
    raw_events = [resolve_event(event, rule.block, events, hypers, universe, report) for event in events.values()]
    reads = {name.split(":")[0] for name in machine.foreign}
    concerned = [
        event
        for event in raw_events
        if event.name in reads or any(output.name == "weight" for output in event.function.outputs)
    ]
    return RawRule(
        rule.words[0],
        roles,
        rule.words,
        universe,
        step,
        tuple(concerned or (raw_events if not reads else ())),
        machine.claims(),
        tuple(equation_lines(rule.block)),
        rule.span,
    )


def equation_lines(block: Block) -> list[str]:
    """The equations as the spec says them, replaced ones left out."""
    return [
        f"{definition.name.name} {arrow} {print_expression(definition.value)}"
        for arrow, definitions in (("=", block.bindings), ("<-", block.updates))
        for definition in definitions.values()
    ]


def resolve_event(
    event: FlatEvent,
    rule: Block,
    events: Mapping[str, FlatEvent],
    hypers: Hypers,
    universe: Universe,
    report: Report,
) -> RawEvent:
    name = event.node.name
    require_usable_name(name, "event", report)
    parameters = []
    for parameter in event.node.parameters:
        require_usable_name(parameter.name, "hyperparameter", report)
        node = ast.Hyper(parameter.name, parameter.default, span=parameter.span)
        parameters.append(resolve_hyper(parameter.name.name, node, report))
    machine = Machine(event.block, events, name.name, hypers.values, report, rule, tuple(p.name for p in parameters))
    machine.check_names()
    doc = event.node.doc.value if event.node.doc else ""
    return RawEvent(name.name, tuple(parameters), machine.function(universe), doc)


class Machine:
    """The equations of a rule, event, schedule or penalty, with the names they see."""

    def __init__(
        self,
        block: Block,
        events: Mapping[str, FlatEvent],
        owner: str,
        hypers: Mapping[str, ir.Expr],
        report: Report,
        rule: Block | None = None,
        arguments: tuple[str, ...] = (),
        what: str = "a rule",
        streams: bool = True,
    ) -> None:
        self.block, self.owner, self.hypers, self.report = block, owner, hypers, report
        self.arguments, self.what, self.streams = arguments, what, streams
        self.equations = Equations()
        self.foreign: set[str] = set()
        self.visible_elsewhere = {
            stream: f"{name}:{stream}" for name, event in events.items() for stream in event.block.bindings
        }
        if rule is not None:
            self.visible_elsewhere |= {stream: f"step:{stream}" for stream in rule.bindings}
        for name in block.bindings:
            self.equations.fresh(name)
            self.equations.define(name, number("0", block.bindings[name].name.span), block.bindings[name].name.span)

    def check_names(self) -> None:
        for name, definition in self.block.bindings.items():
            require_usable_name(definition.name, "value", self.report)
            if name in self.hypers or name in self.arguments:
                hyper = self.hypers.get(name)
                span = hyper.span if hyper is not None else definition.name.span
                self.report(errors.duplicate("value", name, definition.name.span, span))

    def function(self, universe: Universe) -> ir.Function:
        for name, definition in self.block.bindings.items():
            self.equations.define(name, self.value_of(definition, name, name), definition.name.span)
        outputs = [
            ir.Output(name, self.value_of(definition, name, name)) for name, definition in self.block.updates.items()
        ]
        equations = tuple(self.equations.found.values())
        return ir.Function(self.owner, universe, equations, tuple(outputs))

    def value_of(self, definition: Definition, binding: str, path: str) -> ir.Expr:
        return self.place(definition, binding, path).expression(definition.value)

    def place(self, definition: Definition, binding: str, path: str) -> Place:
        def lookup(name: ast.Name) -> ir.Expr:
            return self.lookup(name, definition, binding, path)

        return Place(
            definition.scope, lookup, self.equations, self.report, binding, path,
            memory=self.streams, totals=self.streams, what=self.what,
        )  # fmt: skip

    def lookup(self, name: ast.Name, definition: Definition, binding: str, path: str) -> ir.Expr:
        text = name.name
        if text == "super":
            return self.super_value(name, definition, binding, path)
        if text in self.arguments:
            return ir.Input(text, ir.Source.ARGUMENT)
        if text in self.block.bindings:
            return ir.Ref(text)
        found = universal(name) or self.hypers.get(text)
        if found is not None:
            return found
        if text in self.visible_elsewhere:
            self.foreign.add(self.visible_elsewhere[text])
            return ir.Input(self.visible_elsewhere[text], ir.Source.MEMORY)
        known = [*self.block.bindings, *self.hypers, *self.arguments, *self.visible_elsewhere, *UNIVERSAL]
        self.report(errors.unknown_name(text, name.span, known))
        return number("0", name.span)

    def super_value(self, name: ast.Name, definition: Definition, binding: str, path: str) -> ir.Expr:
        if definition.below is None:
            reason = "it stands for the equation of the same name in the base, and there is none"
            self.report(errors.no_super(reason, name.span))
            return number("0", name.span)
        below = f"{path}.super"
        if below not in self.equations.found:
            self.equations.fresh(below)
            value = self.value_of(definition.below, binding, below)
            self.equations.define(below, value, definition.below.name.span)
        return ir.Ref(below)

    def claims(self) -> tuple[ir.Claim, ...]:
        """Claims read the rule's streams; what their calls leave behind is written out in them."""
        found = []
        for node, scope in self.block.claims:
            form, promise = "comparison", node.promise
            if isinstance(promise, ast.Call) and promise.function.name in CLAIM_FORMS:
                form = promise.function.name
                if len(promise.arguments) != 1 or promise.keywords:
                    self.report(errors.bad_claim(f"`{form}` takes one argument", node.span))
                    continue
                promise = promise.arguments[0]
            elif not isinstance(promise, ast.Comparison):
                self.report(errors.bad_claim("a claim is a comparison or one of the special forms", node.span))
                continue
            found.append(self.claim(node, form, promise, scope))
        return tuple(found)

    def claim(self, node: ast.Claim, form: str, promise: ast.Expression, scope: Scope) -> ir.Claim:
        text = print_expression(node.promise)
        if form == "equivariant" and not (isinstance(promise, ast.Name) and promise.name in ("rows", "cols")):
            self.report(errors.bad_claim("`equivariant` takes `rows` or `cols`", node.span))
        local = Equations()
        definition = Definition(ast.Identifier("claim"), promise, scope)
        place = replace(
            self.place(definition, "claim", "claim"), equations=local, memory=False, totals=False, what="a claim"
        )
        value = place.expression(promise)
        names = set(local.found)

        def put_back(expr: ir.Expr) -> ir.Expr:
            if isinstance(expr, ir.Ref) and expr.name in names:
                return ir.transform(put_back, local.found[expr.name].value)
            return expr

        return ir.Claim(text, form, ir.transform(put_back, value), node.span)


# Delegates


def resolve_delegate(
    rule: FlatRule, roles: tuple[str, ...], hypers: Hypers, report: Report, path: tuple[str, ...]
) -> list[RawRule]:
    """``for roles: use Name(...)``: the rules of ``Name`` for these roles, its hypers bound or made visible."""
    assert rule.delegate is not None
    node, scope = rule.delegate
    found = scope.find_optimizer(node.optimizer.name)
    if found is None:
        report(errors.unknown_optimizer(node.optimizer.name, node.optimizer.span, scope.known_optimizers()))
        return []
    if node.optimizer.name in path:
        report(errors.recursion([*path, node.optimizer.name], node.optimizer.span))
        return []
    flat = flatten_optimizer(*found, report)
    inner = delegate_hypers(rule, node, scope, flat, hypers, report)
    rules = resolve_rules(flat, inner, report, path)
    chosen = []
    for candidate in rules:
        shared = tuple(role for role in roles if role in candidate.roles)
        if shared:
            name = rule.words[0] if not chosen else f"{rule.words[0]}_{candidate.name}"
            text = (f"use {node.span.text.split('use', 1)[1].strip()}", *candidate.text)
            chosen.append(replace(candidate, roles=shared, name=name, words=rule.words, text=text))
    for role in roles:
        if not any(role in candidate.roles for candidate in chosen):
            report(errors.delegate_without_rule(flat.name, role, node.optimizer.span))
    adopt_hypers(chosen, inner, hypers)
    return chosen


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
        if keyword.name in bound:
            report(errors.bad_keyword(flat.name, keyword.name, "is given twice the argument", keyword.span, ()))
        equations = Equations()
        place = Place(
            scope, hyper_lookup(outer.values, report), equations, report, "", "",
            memory=False, totals=False, what="the arguments of `use`",
        )  # fmt: skip
        bound[keyword.name] = written_out(place.expression(value), equations)
    inner = Hypers()
    for name, (declared, _) in flat.hypers.items():
        if name in bound:
            inner.values[name] = bound[name]
        else:
            visible = f"{rule.words[0]}_{name}"
            inner.values[name] = ir.Input(visible, ir.Source.HYPER)
            inner.visible[visible] = replace(resolve_hyper(name, declared, report), name=visible)
    for name, (declared, declared_scope) in flat.hypers.items():
        add_requirement(name, declared, declared_scope, inner.values, inner.requirements, report, f"{rule.words[0]}_")
    return inner


def adopt_hypers(rules: list[RawRule], inner: Hypers, outer: Hypers) -> None:
    """Show outside the hypers of a used optimizer that the chosen rules read, with their conditions."""
    used = {
        node.name
        for rule in rules
        for function in (rule.step, *(event.function for event in rule.events))
        for value in (*(e.value for e in function.equations), *(o.value for o in function.outputs))
        for node in ir.walk(value)
        if isinstance(node, ir.Input) and node.source is ir.Source.HYPER
    }
    for requirement in inner.requirements:
        names = {n.name for n in ir.walk(requirement.condition) if isinstance(n, ir.Input)}
        is_new = all(requirement.condition != other.condition for other in outer.requirements)
        if is_new and names <= used | set(outer.visible):
            outer.requirements.append(requirement)
    for name, hyper in inner.visible.items():
        if name in used:
            outer.visible[name] = hyper


# Schedules and penalties


def resolve_schedule(node: ast.Schedule, scope: Scope, report: Report) -> RawDeclaration:
    hypers = own_hypers(collect_hypers([m for m in node.members if isinstance(m, ast.Hyper)], scope, report), report)
    block = collect_block(node.members, "factor", scope, report)
    machine = Machine(block, {}, "schedule", hypers.values, report, what="a schedule", streams=False)
    machine.check_names()
    if "factor" not in block.updates:
        report(errors.missing_update("factor", node.name.span))
    function = machine.function(Universe.TENSOR)
    require_inputs(function, ("t",), "a schedule", report)
    rule = RawRule(
        "schedule", (), (), Universe.TENSOR, function, (), machine.claims(), tuple(equation_lines(block)), node.span
    )
    return declaration("schedule", node, hypers, (rule,))


def resolve_penalty(node: ast.Penalty, scope: Scope, report: Report) -> RawDeclaration:
    hypers = own_hypers(collect_hypers([m for m in node.members if isinstance(m, ast.Hyper)], scope, report), report)
    members = [member for member in node.members if isinstance(member, ast.Rule | ast.Delegate)]
    flat = collect_rules(members, "loss", scope, report)
    taken = {word for rule in flat for word in rule.words}
    rules = []
    for rule in flat:
        if rule.delegate:
            report(errors.not_available("use", "a penalty", rule.span))
            continue
        machine = Machine(rule.block, {}, "penalty", hypers.values, report, what="a penalty", streams=False)
        machine.check_names()
        if "loss" not in rule.block.updates:
            report(errors.missing_update("loss", rule.span))
        universe = universe_of(rule.words)
        function = machine.function(universe)
        require_inputs(function, ("weight", "rows", "cols"), "a penalty", report)
        roles = roles_of(rule.words, taken)
        lines = tuple(equation_lines(rule.block))
        claims = machine.claims()
        rules.append(RawRule(rule.words[0], roles, rule.words, universe, function, (), claims, lines, rule.span))
    return declaration("penalty", node, hypers, tuple(rules))


def declaration(
    kind: str, node: ast.Schedule | ast.Penalty, hypers: Hypers, rules: tuple[RawRule, ...]
) -> RawDeclaration:
    doc = node.doc.value if node.doc else ""
    visible, requirements = tuple(hypers.visible.values()), tuple(hypers.requirements)
    return RawDeclaration(kind, node.name.name, doc, visible, requirements, rules, node.name.span)


def require_inputs(function: ir.Function, allowed: tuple[str, ...], place: str, report: Report) -> None:
    """Report streams and dimensions that do not exist in a schedule or penalty."""
    for value in (*(e.value for e in function.equations), *(o.value for o in function.outputs)):
        for node in ir.walk(value):
            if isinstance(node, ir.Input) and node.source is not ir.Source.HYPER and node.name not in allowed:
                report(errors.not_available(node.name, place, node.span))
