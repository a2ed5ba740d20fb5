"""The rules of an optimizer: the equations of each with all events as it sees them, and the roles it is for.

In: rules and events with all they inherit, and what hypers stand for. Out: rules as untyped IR, each with those events
that concern it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from optforge.compiler.frontend.blocks import Machine, written_equations
from optforge.compiler.frontend.hyperparameters import Hypers, resolve_hyper
from optforge.compiler.frontend.migrations import resolve_past
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.reserved_names import require_usable_name
from optforge.compiler.frontend.resolved import RawEvent, RawRule
from optforge.compiler.frontend.rules.collecting import ROLES, TENSOR_WORDS, FlatEvent, FlatRule
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import reachable
from optforge.compiler.ir.types import Dim, Shape, Universe
from optforge.dsl import ast, errors
from optforge.dsl.source import Source


def require_separate(rules: tuple[FlatRule, ...], report: Report) -> None:
    """A rule for every tensor leaves nothing for another one."""
    whole = [rule for rule in rules if "tensor" in rule.words]
    for rule in rules:
        if whole and rule is not whole[0] and "tensor" not in rule.words:
            first, second = sorted((whole[0], rule), key=rules.index)
            note = "`tensor` takes every parameter" if first is whole[0] else "first rule"
            report(errors.duplicate_role(rule.words[0], second.span, first.span, note))


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
    rule: FlatRule,
    roles: tuple[str, ...],
    events: Mapping[str, FlatEvent],
    hypers: Hypers,
    report: Report,
    of_base: Collection[str],
) -> RawRule:
    """A rule with its own equations, and all events as it sees them.

    ``of_base`` are the hypers of the base, whose place an equation may take.
    """
    machine = Machine(
        rule.block, events, "step", hypers.in_step(), report,
        words=rule.words, orientation=rule.orientation, of_base=of_base,
    )  # fmt: skip
    return rule_of(machine, rule, roles, events, hypers, report)


def rule_of(
    machine: Machine,
    rule: FlatRule,
    roles: tuple[str, ...],
    events: Mapping[str, FlatEvent],
    hypers: Hypers,
    report: Report,
    layer: str = "",
) -> RawRule:
    """A rule with the equations of a machine, which may be those of a wrapper, the ``layer``."""
    machine.check_names()
    if "weight" not in rule.block.updates:
        report(errors.missing_update("weight", rule.span))
    universe = universe_of(rule.words)
    sizes = Machine(rule.block, {}, "step", hypers.values, report, orientation=rule.orientation)
    claims = machine.claims()  # these may be the first to ask for `next`
    step = machine.function(universe)
    for past in rule.block.was:
        if told := rule.block.bindings.get(past.node.target.name):
            past.scope.references.record(past.node.target.span, "equation", told.name.span)
    return RawRule(
        rule.words[0],
        roles,
        rule.words,
        universe,
        step,
        tuple(resolve_event(event, rule, events, hypers, universe, report) for event in events.values()),
        claims,
        written_equations(rule.block),
        rule.span,
        resolve_past(rule.block.was, hypers.values, report, layer),
        rule.orientation,
        hypers.filled(),
        sizes.rank(),
    )


def with_concerning_events(rules: list[RawRule]) -> list[RawRule]:
    """The rules with those events that they read or that change them.

    An event that concerns no rule stays with the first one for matrices, where its equations are still checked.
    """
    needed = [events_needed(rule) for rule in rules]
    home = next((number for number, rule in enumerate(rules) if rule.universe is Universe.MATRIX), 0)
    idle = {event.name for rule in rules for event in rule.events}.difference(*needed)
    kept = [names | idle if number == home else names for number, names in enumerate(needed)]
    return [
        replace(rule, events=tuple(event for event in rule.events if event.name in names))
        for rule, names in zip(rules, kept, strict=True)
    ]


def events_needed(rule: RawRule) -> set[str]:
    """The machines that the rule reads, be it through events, and the events that change its weights.

    An event that is given matrices changes the weights of rules for matrices alone.
    """
    changing = {event.name for event in rule.events if event.function.outputs and not event.unseen_by(rule.universe)}
    return reachable(
        {event.name: owners_read(event.function) for event in rule.events}, owners_read(rule.step) | changing
    )


def owners_read(function: ir.Function) -> set[str]:
    """The machines whose streams a function reads."""
    return {node.stream.machine for node in ir.nodes(function) if isinstance(node, ir.Latest)}


def require_one_signature(rules: Iterable[RawRule], source: Source, report: Report) -> None:
    """Rules that have an event of one name are fired together: what one call gives all of them must suit each.

    Where one of two that do not agree stands in ``source``, the mistake is shown there.
    """
    seen: dict[tuple[str, str], RawEvent] = {}
    for event in (event for rule in rules for event in rule.events):
        for argument in event.parameters:
            first = seen.setdefault((event.name, argument.name), event)
            other = next(each for each in first.parameters if each.name == argument.name)
            one, two = (each.default.value if each.default else None for each in (other, argument))
            if (other.kind, other.shape, one) != (argument.kind, argument.shape, two):
                here, there = sorted((event.span, first.span), key=lambda span: span.source is not source)
                report(errors.two_signatures(event.name, argument.name, here, there))


def shape_of(parameter: ast.Parameter) -> Shape | None:
    """The shape of what each parameter of the optimizer is given; None for a number that is given once."""
    if parameter.shape is None:
        return None
    sides = {dim.value: dim for dim in Dim}
    first, second = (sides.get(side.name, Dim.ONE) for side in parameter.shape)
    return first, second


def resolve_event(
    event: FlatEvent,
    rule: FlatRule,
    events: Mapping[str, FlatEvent],
    hypers: Hypers,
    universe: Universe,
    report: Report,
) -> RawEvent:
    name = event.node.name
    require_usable_name(name, "event", report)
    parameters = []
    taken = {hyper: value.span for hyper, value in hypers.values.items() if isinstance(value, ir.Input)}
    for parameter in event.node.parameters:
        require_usable_name(parameter.name, "argument", report)
        if parameter.name.name in taken:
            report(errors.duplicate("argument", parameter.name.name, parameter.span, taken[parameter.name.name]))
        taken.setdefault(parameter.name.name, parameter.name.span)
        node = ast.Hyper(parameter.name, parameter.default, span=parameter.span)
        parameters.append(replace(resolve_hyper(parameter.name.name, node, report), shape=shape_of(parameter)))
    arguments = {parameter.name: parameter for parameter in parameters}
    hint = f"neither this event nor the rule `for {', '.join(rule.words)}` defines it"
    machine = Machine(
        event.block, events, name.name, hypers.values, report, rule.block, arguments, hint=hint, words=rule.words,
        orientation=rule.orientation,
    )  # fmt: skip
    machine.check_names()
    doc = event.node.doc.value if event.node.doc else ""
    last = event.node.parameters[-1].span if event.node.parameters else name.span
    return RawEvent(name.name, tuple(parameters), machine.function(universe), doc, name.span.to(last))
