"""Wrappers by themselves: their rules and events, and where they call ``step``.

Takes a layer, gives its members by their names; a rule that does not call ``step`` once, where every step comes to, is
reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.rules.collecting import Block, FlatEvent, FlatRule, collect_events, collect_rules
from optforge.compiler.frontend.rules.compositions import Layer
from optforge.compiler.frontend.rules.resolving import require_separate
from optforge.dsl import ast, errors


@dataclass(frozen=True)
class FlatWrapper:
    """A layer with its rules and events, before names have a meaning."""

    layer: Layer
    rules: tuple[FlatRule, ...]
    events: dict[str, FlatEvent]

    @property
    def taken(self) -> set[str]:
        return {word for rule in self.rules for word in rule.words}

    def changed_hypers(self) -> set[str]:
        """The hypers of the wrapped optimizer to which ``step`` gives other values."""
        return {keyword.name for rule in self.rules for call, _ in steps_in(rule.block) for keyword, _ in call.keywords}


def flatten_wrapper(layer: Layer, report: Report) -> FlatWrapper:
    """The rules and events of a wrapper; what is wrong with them is reported."""
    node, scope = layer.node, layer.scope
    members = [member for member in node.members if isinstance(member, ast.Rule | ast.Delegate)]
    for member in members:
        if isinstance(member, ast.Delegate):
            report(errors.not_available("use", "a wrapper", member.roles[0].span.to(member.optimizer.span)))
    rules = collect_rules([each for each in members if isinstance(each, ast.Rule)], "weight", scope, report)
    events = collect_events([each for each in node.members if isinstance(each, ast.Event)], scope, report)
    require_separate(rules, report)
    if not members:
        hint = "add a rule: `for tensor:` with `weight <- step(grad)`"
        report(errors.missing_update("weight", node.name.span, hint))
    for rule in rules:
        require_one_step(rule, report)
    return FlatWrapper(layer, rules, events)


def require_one_step(rule: FlatRule, report: Report) -> None:
    """Each rule calls ``step`` once, where every step comes to."""
    found = list(steps_in(rule.block))
    if not found:
        hint = "such as `weight <- step(grad)`"
        report(errors.misplaced_step("this rule never calls `step`, the optimizer that is wrapped", rule.span, hint))
    for call, _ in found[1:]:
        hint = "the optimizer that is wrapped has one state: give the first call a name, and use that"
        report(errors.misplaced_step("`step` is called twice", call.span, hint, found[0][0].span))
    for call, is_branch in found[:1]:
        if is_branch:
            hint = "call it in an equation of its own, and choose between that and other values"
            report(errors.misplaced_step("`step` stands in a branch, which may not be taken", call.span, hint))


def steps_in(block: Block) -> Iterator[tuple[ast.Call, bool]]:
    """The calls of ``step``, each with whether it stands in a branch of a choice."""
    for definition in (*block.bindings.values(), *block.updates.values()):
        yield from calls_in(definition.value, False)


def calls_in(node: object, is_branch: bool) -> Iterator[tuple[ast.Call, bool]]:
    match node:
        case ast.Select(condition=condition, then=then, otherwise=otherwise):
            yield from calls_in(condition, is_branch)
            yield from calls_in((then, otherwise), True)
            return
        case ast.Call(function=function) if function.name == "step":
            yield node, is_branch
    if isinstance(node, tuple):
        for part in node:
            yield from calls_in(part, is_branch)
    elif isinstance(node, ast.Node):
        for name in node.__dataclass_fields__:
            yield from calls_in(getattr(node, name), is_branch)
