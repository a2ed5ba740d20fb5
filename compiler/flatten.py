"""``extends`` written out: an optimizer with all it inherits, as if it stood in one place.

Takes surface optimizers, gives :class:`FlatOptimizer`; names inside equations stay unresolved.
An equation that replaces another keeps the replaced one below it, for ``super``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optforge.compiler.library import Report, Scope
from optforge.dsl import ast, errors
from optforge.dsl.source import Span

ROLES = ("matrix", "conv", "embedding", "head", "vector")
RULE_WORDS = (*ROLES, "rest", "tensor")


@dataclass(frozen=True, slots=True)
class Definition:
    """The right-hand side of an equation, where its functions are found, and what it replaced."""

    name: ast.Identifier
    value: ast.Expression
    scope: Scope
    below: Definition | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """The equations of a rule, event or schedule: bindings by name and the ``<-`` results."""

    bindings: dict[str, Definition] = field(default_factory=dict)
    updates: dict[str, Definition] = field(default_factory=dict)
    claims: tuple[tuple[ast.Claim, Scope], ...] = ()


@dataclass(frozen=True, slots=True)
class FlatRule:
    words: tuple[str, ...]
    span: Span
    block: Block
    delegate: tuple[ast.Delegate, Scope] | None = None


@dataclass(frozen=True, slots=True)
class FlatEvent:
    node: ast.Event
    scope: Scope
    block: Block


@dataclass(frozen=True, slots=True)
class FlatOptimizer:
    name: str
    doc: str
    span: Span
    hypers: dict[str, tuple[ast.Hyper, Scope]]
    rules: tuple[FlatRule, ...]
    events: dict[str, FlatEvent]


def flatten_optimizer(node: ast.Optimizer, scope: Scope, report: Report, path: tuple[str, ...] = ()) -> FlatOptimizer:
    """The optimizer with its base's hypers, rules and events merged in."""
    name = node.name.name
    own = FlatOptimizer(
        name,
        node.doc.value if node.doc else "",
        node.name.span,
        collect_hypers([member for member in node.members if isinstance(member, ast.Hyper)], scope, report),
        collect_rules([m for m in node.members if isinstance(m, ast.Rule | ast.Delegate)], "weight", scope, report),
        collect_events([member for member in node.members if isinstance(member, ast.Event)], scope, report),
    )
    if node.base is None:
        return own
    if node.base.name in (*path, name):
        report(errors.recursion([*path, name, node.base.name], node.base.span))
        return own
    found = scope.find_optimizer(node.base.name)
    if found is None:
        report(errors.unknown_optimizer(node.base.name, node.base.span, scope.known_optimizers()))
        return own
    return merge_optimizers(flatten_optimizer(*found, report, (*path, name)), own)


def collect_hypers(hypers: list[ast.Hyper], scope: Scope, report: Report) -> dict[str, tuple[ast.Hyper, Scope]]:
    collected: dict[str, tuple[ast.Hyper, Scope]] = {}
    for hyper in hypers:
        name = hyper.name.name
        if name in collected:
            report(errors.duplicate("hyperparameter", name, hyper.name.span, collected[name][0].name.span))
        else:
            collected[name] = (hyper, scope)
    return collected


def collect_rules(
    members: list[ast.Rule | ast.Delegate], target: str, scope: Scope, report: Report
) -> tuple[FlatRule, ...]:
    seen: dict[str, Span] = {}
    rules = []
    for member in members:
        for role in member.roles:
            if role.name not in RULE_WORDS:
                report(errors.unknown_role(role.name, role.span, RULE_WORDS))
            elif role.name in seen:
                report(errors.duplicate_role(role.name, role.span, seen[role.name]))
            seen.setdefault(role.name, role.span)
        words = tuple(role.name for role in member.roles)
        if isinstance(member, ast.Delegate):
            rules.append(FlatRule(words, member.span, Block(), (member, scope)))
        else:
            rules.append(FlatRule(words, member.roles[0].span, collect_block(member.statements, target, scope, report)))
    return tuple(rules)


def collect_block(
    statements: tuple[ast.Statement | ast.Hyper, ...], target: str, scope: Scope, report: Report
) -> Block:
    """Sort statements into bindings, results and claims; ``target`` is what may stand left of ``<-``."""
    block = Block()
    claims = []
    for statement in statements:
        match statement:
            case ast.Claim():
                claims.append((statement, scope))
            case ast.Binding(target=name, value=value):
                if name.name in block.bindings:
                    report(errors.duplicate("value", name.name, name.span, block.bindings[name.name].name.span))
                else:
                    block.bindings[name.name] = Definition(name, value, scope)
            case ast.Update(target=name, value=value):
                if name.name != target:
                    report(errors.wrong_update(name.name, target, name.span))
                elif name.name in block.updates:
                    report(errors.duplicate_update(name.name, name.span, block.updates[name.name].name.span))
                else:
                    block.updates[name.name] = Definition(name, value, scope)
            case ast.Hyper():
                continue
    return replace(block, claims=tuple(claims))


def collect_events(events: list[ast.Event], scope: Scope, report: Report) -> dict[str, FlatEvent]:
    collected: dict[str, FlatEvent] = {}
    for event in events:
        name = event.name.name
        if name in collected:
            report(errors.duplicate("event", name, event.name.span, collected[name].node.name.span))
        else:
            collected[name] = FlatEvent(event, scope, collect_block(event.statements, "weight", scope, report))
    return collected


# Inheritance


def merge_optimizers(base: FlatOptimizer, own: FlatOptimizer) -> FlatOptimizer:
    events = dict(base.events)
    for name, event in own.events.items():
        inherited = base.events.get(name)
        events[name] = replace(event, block=merge_blocks(inherited.block, event.block)) if inherited else event
    return replace(own, hypers=base.hypers | own.hypers, rules=merge_rules(base.rules, own.rules), events=events)


def merge_rules(base: tuple[FlatRule, ...], own: tuple[FlatRule, ...]) -> tuple[FlatRule, ...]:
    """Role by role: a rule of the same role is merged or replaced; roles not mentioned stay."""
    merged: list[FlatRule] = []
    taken = {word for rule in own for word in rule.words}
    for rule in base:
        kept = tuple(word for word in rule.words if word not in taken)
        if kept:
            merged.append(replace(rule, words=kept))
        for change in own:
            shared = tuple(word for word in rule.words if word in change.words)
            if shared:
                merged.append(merge_rule(rule, change, shared))
    known = {word for rule in base for word in rule.words}
    for rule in own:
        fresh = tuple(word for word in rule.words if word not in known)
        if fresh:
            merged.append(replace(rule, words=fresh))
    return tuple(merged)


def merge_rule(base: FlatRule, own: FlatRule, words: tuple[str, ...]) -> FlatRule:
    if own.delegate or base.delegate:
        return replace(own, words=words)
    return FlatRule(words, own.span, merge_blocks(base.block, own.block))


def merge_blocks(base: Block, own: Block) -> Block:
    def merged(below: dict[str, Definition], above: dict[str, Definition]) -> dict[str, Definition]:
        return below | {name: replace(definition, below=below.get(name)) for name, definition in above.items()}

    return Block(merged(base.bindings, own.bindings), merged(base.updates, own.updates), base.claims + own.claims)
