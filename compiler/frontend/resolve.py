"""Names get their meaning: surface tree in, untyped IR out.

``extends`` and ``use`` are written out, functions inlined, every name bound to an input or an
equation. What comes out still has ``prev`` nodes and no types.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from optforge.compiler.frontend.blocks import Machine, written_equations
from optforge.compiler.frontend.builtins import universal
from optforge.compiler.frontend.equations import Equations
from optforge.compiler.frontend.expressions import Place
from optforge.compiler.frontend.files import Files, parse_text
from optforge.compiler.frontend.hyperparameters import Hypers, adopt_hypers, delegate_hypers, fill_holes, own_hypers
from optforge.compiler.frontend.inheritance import FlatOptimizer, add_layer, find_optimizer, flatten_optimizer
from optforge.compiler.frontend.migrations import require_no_past, resolve_hyper_past, used_hyper_past
from optforge.compiler.frontend.references import References
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.reserved_names import require_usable_function_name, require_usable_name
from optforge.compiler.frontend.resolved import RawDeclaration, RawProgram, RawRule
from optforge.compiler.frontend.rules.collecting import FlatRule, collect_block, collect_hypers, collect_rules
from optforge.compiler.frontend.rules.compositions import Use, layer_of
from optforge.compiler.frontend.rules.resolving import (
    require_one_signature,
    require_separate,
    resolve_rule,
    roles_of,
    universe_of,
    with_concerning_events,
)
from optforge.compiler.frontend.rules.wrappers import flatten_wrapper
from optforge.compiler.frontend.rules.wrapping import wrap_rules
from optforge.compiler.frontend.scopes import Scope, overrides_prelude, scope_of
from optforge.compiler.frontend.unused_hypers import without_unread
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import names_read, reachable
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import Universe
from optforge.dsl import ast, errors
from optforge.dsl.source import Span

DESCENT = "weight - lr * (grad + weight_decay * weight)"


def resolve_file(
    file: ast.File,
    folder: Path | None,
    report: Report,
    files: Files | None = None,
    references: References | None = None,
) -> RawProgram:
    """All declarations of a file; others are found in ``folder``.

    Problems go to ``report``, and what names mean to ``references``.
    """
    scope = scope_of(file, folder, files or Files(), references or References())
    require_taken(file, scope, report)
    require_functions(file, scope, report)
    seen: dict[str, Span] = {}
    declarations: list[RawDeclaration] = []
    wrappers: list[RawDeclaration] = []
    for item in file.items:
        if isinstance(item, ast.Function | ast.Taken):
            continue
        scope.references.enter(item)
        require_usable_name(item.name, "class", report)
        if item.name.name in seen:
            report(errors.duplicate("name", item.name.name, item.name.span, seen[item.name.name]))
            continue
        seen[item.name.name] = item.name.span
        if isinstance(item, ast.Wrapper):
            wrappers.append(resolve_wrapper(item, scope, report))
            continue
        declaration = resolve_item(item, scope, report)
        declarations += [declaration] if declaration else []
    return RawProgram(file.doc.value if file.doc else "", tuple(declarations), tuple(wrappers))


def resolve_item(
    item: ast.Optimizer | ast.Schedule | ast.Penalty, scope: Scope, report: Report
) -> RawDeclaration | None:
    """The declaration; None for an optimizer whose base is not known."""
    match item:
        case ast.Optimizer():
            flat = flatten_optimizer(item, scope, report)
            return None if flat is None else resolve_optimizer(flat, report)
        case ast.Schedule():
            return resolve_schedule(item, scope, report)
        case ast.Penalty():
            return resolve_penalty(item, scope, report)


def require_taken(file: ast.File, scope: Scope, report: Report) -> None:
    """What is taken from other files is there, and has a name that nothing else here has."""
    own = {item.name.name: item.name.span for item in file.items if not isinstance(item, ast.Taken)}
    for item in (item for item in file.items if isinstance(item, ast.Taken)):
        scope.references.enter(item)
        for name in item.names:
            for problem in scope.problems_of_taken(name):
                report(problem)
            if name.name in own:
                report(errors.duplicate("name", name.name, name.span, own[name.name]))
            own.setdefault(name.name, name.span)


def require_functions(file: ast.File, scope: Scope, report: Report) -> None:
    """Names, duplicates and recursion of a file's own functions, whether they are called or not."""
    seen: dict[str, Span] = {}
    for item in file.items:
        if not isinstance(item, ast.Function):
            continue
        scope.references.enter(item)
        name = item.name
        require_usable_function_name(name, report)
        if name.name in seen:
            report(errors.duplicate("function", name.name, name.span, seen[name.name]))
        seen.setdefault(name.name, name.span)
        if overrides_prelude(item):
            report(errors.replaces_prelude(name.name, name.span))
        require_own_names(item, report)
        place = Place(scope, universal, Equations(report.growth), report, EquationName.of(name.name))
        arguments = tuple(ast.Name("weight", span=name.span) for each in item.parameters if each.default is None)
        result = place.inlined(ast.Call(name, arguments, span=name.span), item, scope)
        if not report.failed:
            warn_unused_locals(item, place.equations, result, report)


def warn_unused_locals(function: ast.Function, equations: Equations, result: ir.Expr, report: Report) -> None:
    """Equations of a function that its result does not depend on."""
    path = EquationName.of(function.name.name)
    graph = {name: names_read(equation.value) for name, equation in equations.found.items()}
    live = reachable(graph, names_read(result))
    for statement in function.body:
        if isinstance(statement, ast.Binding) and path.inside(statement.target.name) not in live:
            report(errors.unused_binding(statement.target.name, statement.target.span))


def require_own_names(function: ast.Function, report: Report) -> None:
    """The parameters and equations of a function have usable names, one each."""
    seen: dict[str, Span] = {}
    own = [("parameter", each.name) for each in function.parameters]
    own += [("value", each.target) for each in function.body if isinstance(each, ast.Binding)]
    for kind, name in own:
        require_usable_name(name, "value", report)
        if name.name in seen:
            report(errors.duplicate(kind, name.name, name.span, seen[name.name]))
        seen.setdefault(name.name, name.span)
    for statement in function.body:
        if isinstance(statement, ast.Update):
            report(errors.wrong_update(statement.target.name, "", statement.target.span))


# Optimizers


def resolve_optimizer(flat: FlatOptimizer, report: Report) -> RawDeclaration:
    hypers = own_hypers(flat.hypers, report)
    rules = tuple(map(without_holes, resolve_rules(flat, hypers, report, ())))
    visible, requirements = tuple(hypers.visible.values()), tuple(hypers.requirements.values())
    was = (*resolve_hyper_past(flat.hypers, report), *hypers.past.values())
    require_one_signature(rules, flat.span.source, report)
    names = flat.declared
    whole = RawDeclaration("optimizer", flat.name, flat.doc, visible, requirements, rules, flat.span, was, names)
    return without_unread(whole, flat.inherited)


def resolve_rules(flat: FlatOptimizer, hypers: Hypers, report: Report, path: tuple[str, ...]) -> tuple[RawRule, ...]:
    if not flat.rules:
        report(errors.missing_update("weight", flat.span, "add a rule: `for matrix:` with `weight <- ...`"))
    require_separate(flat.rules, report)
    layers = [flatten_wrapper(layer, report) for layer in flat.layers]
    within = replace(hypers, holes=hypers.holes.union(*(layer.changed_hypers() for layer in layers)))
    taken = {word for rule in flat.rules for word in rule.words}
    own = [rule for rule in flat.rules if not rule.delegate]
    resolved = [
        resolve_rule(rule, roles_of(rule.words, taken), flat.events, within, report, flat.of_base) for rule in own
    ]
    attached = iter(with_concerning_events(resolved))
    rules: list[RawRule] = []
    for rule in flat.rules:
        if rule.delegate:
            rules += resolve_delegate(rule, roles_of(rule.words, taken), within, report, (*path, flat.name))
        else:
            rules.append(next(attached))
    for layer in layers:
        rules = wrap_rules(rules, layer, hypers, report)
    return tuple(rules)


def without_holes(rule: RawRule) -> RawRule:
    """The rule in which hypers are what they are, unless a wrapper has changed them."""
    if not rule.holes:
        return rule
    claims = tuple(replace(claim, promise=fill_holes(rule.holes, claim.promise)) for claim in rule.claims)
    step = ir.map_expressions(partial(fill_holes, rule.holes), rule.step)
    return replace(rule, step=step, claims=claims, holes={})


def resolve_wrapper(node: ast.Wrapper, scope: Scope, report: Report) -> RawDeclaration:
    """The wrapper around gradient descent, so that what is wrong with it is said where it stands."""
    layer = layer_of(Use(node.name), (node, scope), (), report)
    names = {"lr", "weight_decay", *flatten_wrapper(layer, Report()).changed_hypers()}
    hypers = "".join(f"    hyper {name} = 0\n" for name in sorted(names))
    text = f"optimizer Plain:\n{hypers}    for tensor:\n        weight <- {DESCENT}\n"
    plain = parse_text("gradient descent", text).items[0]
    assert isinstance(plain, ast.Optimizer)
    flat = flatten_optimizer(plain, scope, report)
    assert flat is not None
    flat = add_layer(flat, Use(node.name), (node, scope), scope, report)
    doc = node.doc.value if node.doc else ""
    return resolve_optimizer(replace(flat, name=node.name.name, doc=doc, span=node.name.span), report)


# Delegates


def resolve_delegate(
    rule: FlatRule, roles: tuple[str, ...], hypers: Hypers, report: Report, path: tuple[str, ...]
) -> list[RawRule]:
    """``for roles: use Name(...)``: the rules of ``Name`` for these roles, its hypers bound or made visible."""
    assert rule.delegate is not None
    node, scope = rule.delegate
    found = find_optimizer(node.optimizer, scope, path, report)
    known = report.count
    flat = None if found is None else flatten_optimizer(*found, report)
    if flat is None:
        return []
    inner = delegate_hypers(rule, node, scope, flat, hypers, report)
    inner.past |= used_hyper_past(flat.hypers, inner.prefix, inner.visible, report)
    rules = resolve_rules(flat, inner, report, path)
    chosen: list[RawRule] = []
    for candidate in rules:
        shared = tuple(role for role in roles if role in candidate.roles)
        if shared:
            name = rule.words[0] if not chosen else f"{rule.words[0]}_{candidate.name}"
            written = (node, *candidate.written)
            was = tuple(replace(each, is_inherited=True) for each in candidate.was)
            chosen.append(replace(candidate, roles=shared, name=name, words=rule.words, written=written, was=was))
    missing = [role for role in roles if not any(role in candidate.roles for candidate in chosen)]
    if missing and report.count == known:
        report(errors.delegate_without_rule(flat.name, missing, node.optimizer.span))
    adopt_hypers(chosen, inner, hypers, node, report)
    return chosen


# Schedules and penalties


def resolve_schedule(node: ast.Schedule, scope: Scope, report: Report) -> RawDeclaration:
    hypers = own_hypers(collect_hypers([m for m in node.members if isinstance(m, ast.Hyper)], scope, report), report)
    require_no_past(node.members, "a schedule", report)
    block = collect_block(node.members, "factor", scope, report)
    machine = Machine(block, {}, "schedule", hypers.values, report, what="a schedule", streams=False)
    machine.check_names()
    if "factor" not in block.updates:
        report(errors.missing_update("factor", node.name.span))
    function = machine.function(Universe.TENSOR)
    claims = machine.claims()
    require_inputs(function, claims, ("t",), "a schedule", report)
    require_comparisons(claims, report)
    rule = RawRule("schedule", (), (), Universe.TENSOR, function, (), claims, written_equations(block), node.span)
    return declaration("schedule", node, hypers, (rule,))


def resolve_penalty(node: ast.Penalty, scope: Scope, report: Report) -> RawDeclaration:
    hypers = own_hypers(collect_hypers([m for m in node.members if isinstance(m, ast.Hyper)], scope, report), report)
    members = [member for member in node.members if isinstance(member, ast.Rule | ast.Delegate)]
    flat = collect_rules(members, "loss", scope, report)
    require_no_past((*node.members, *(past.node for rule in flat for past in rule.block.was)), "a penalty", report)
    require_separate(flat, report)
    if not flat:
        report(errors.missing_update("loss", node.name.span, "add a rule: `for matrix:` with `loss <- ...`"))
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
        claims = machine.claims(state=False)
        require_inputs(function, claims, ("weight", "rows", "cols"), "a penalty", report)
        require_comparisons(claims, report)
        roles = roles_of(rule.words, taken)
        lines = written_equations(rule.block)
        rules.append(RawRule(rule.words[0], roles, rule.words, universe, function, (), claims, lines, rule.span))
    return declaration("penalty", node, hypers, tuple(rules))


def declaration(
    kind: str, node: ast.Schedule | ast.Penalty, hypers: Hypers, rules: tuple[RawRule, ...]
) -> RawDeclaration:
    doc = node.doc.value if node.doc else ""
    visible, requirements = tuple(hypers.visible.values()), tuple(hypers.requirements.values())
    return RawDeclaration(kind, node.name.name, doc, visible, requirements, rules, node.name.span)


def require_comparisons(claims: tuple[ir.Claim, ...], report: Report) -> None:
    """The special forms speak of the step of a rule, which schedules and penalties do not have."""
    for claim in claims:
        if claim.form != "comparison":
            report(errors.bad_claim(f"`{claim.form}` is about a step of `weight`", claim.span, "compare two values"))


def require_inputs(
    function: ir.Function, claims: tuple[ir.Claim, ...], allowed: tuple[str, ...], place: str, report: Report
) -> None:
    """Report streams and dimensions that do not exist in a schedule or penalty."""
    promises = (claim.promise for claim in claims if claim.form == "comparison")
    for value in (*ir.values(function), *promises):
        for node in ir.walk(value):
            if isinstance(node, ir.Input) and node.source is not ir.InputSource.HYPER and node.name not in allowed:
                report(errors.not_available(node.name, place, node.span))
