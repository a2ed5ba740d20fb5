"""``extends`` written out: an optimizer with all it inherits, as if it stood in one place.

Takes surface optimizers, gives :class:`FlatOptimizer`; names inside equations stay unresolved.
An equation that replaces another keeps the replaced one below it, for ``super``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optforge.compiler.frontend.references import References
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.rules.collecting import (
    Block,
    Definition,
    FlatEvent,
    FlatRule,
    collect_events,
    collect_hypers,
    collect_rules,
)
from optforge.compiler.frontend.rules.compositions import (
    Layer,
    Use,
    find_wrapper,
    layer_of,
    outer_hypers,
    read_composition,
    with_defaults,
)
from optforge.compiler.frontend.scopes import Scope
from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.printer import print_expression
from optforge.dsl.source import Span

# How many optimizers `extends` and `use` lead to, one after another.
PATH_LIMIT = 20


@dataclass(frozen=True, slots=True)
class FlatOptimizer:
    """An optimizer with all it inherits, as if it stood in one place."""

    name: str
    doc: str
    span: Span
    hypers: dict[str, tuple[ast.Hyper, Scope]]
    rules: tuple[FlatRule, ...]
    events: dict[str, FlatEvent]
    inherited: frozenset[str] = frozenset()  # the hypers that it does not declare itself
    declared: tuple[ast.Identifier, ...] = ()  # the events that it does
    layers: tuple[Layer, ...] = ()  # the wrappers around its rules, innermost first
    level: int = 0  # how many it extends
    of_base: frozenset[str] = frozenset()  # the hypers of the one that it extends, whose place equations may take


def flatten_optimizer(
    node: ast.Optimizer, scope: Scope, report: Report, path: tuple[str, ...] = ()
) -> FlatOptimizer | None:
    """The optimizer with its base's hypers, rules and events merged in; None without its base."""
    name = node.name.name
    events = collect_events([member for member in node.members if isinstance(member, ast.Event)], scope, report)
    own = FlatOptimizer(
        name,
        node.doc.value if node.doc else f"{name}: {print_expression(node.composition)}." if node.composition else "",
        node.name.span,
        collect_hypers([member for member in node.members if isinstance(member, ast.Hyper)], scope, report),
        collect_rules([m for m in node.members if isinstance(m, ast.Rule | ast.Delegate)], "weight", scope, report),
        events,
        declared=tuple(event.node.name for event in events.values()),
    )
    if node.composition is not None:
        base = flatten_composition(node.composition, scope, report, (*path, name))
    elif node.base is not None:
        base = flatten_found(node.base, scope, report, (*path, name))
    else:
        return own
    if base is None:
        return None
    for name in base.hypers.keys() & own.hypers.keys():
        require_same_default(base.name, base.hypers[name][0], own.hypers[name][0], report)
    record_replaced(node, base, own, scope.references)
    return merge_optimizers(base, own)


def flatten_found(name: ast.Identifier, scope: Scope, report: Report, path: tuple[str, ...]) -> FlatOptimizer | None:
    found = find_optimizer(name, scope, path, report)
    return None if found is None else flatten_optimizer(*found, report, path)


def flatten_composition(
    node: ast.Expression, scope: Scope, report: Report, path: tuple[str, ...]
) -> FlatOptimizer | None:
    """An optimizer with wrappers around it, whose hypers are among its own."""
    uses = read_composition(node, report)
    if uses is None:
        return None
    first, *around = uses
    base = flatten_found(first.name, scope, report, path)
    found = [find_wrapper(use.name, scope, report) for use in around]
    if base is None:
        return None
    whole = replace(
        base, hypers=with_own_defaults(base.hypers, first, {name: name for name in base.hypers}, scope, report)
    )
    for use, wrapper in zip(around, found, strict=True):
        whole = whole if wrapper is None else add_layer(whole, use, wrapper, scope, report)
    return whole if None not in found else None


def add_layer(
    flat: FlatOptimizer, use: Use, found: tuple[ast.Wrapper, Scope], scope: Scope, report: Report
) -> FlatOptimizer:
    layer = layer_of(use, found, {each.label for each in flat.layers}, report)
    declared = [member for member in layer.node.members if isinstance(member, ast.Hyper)]
    hypers = outer_hypers(layer, collect_hypers(declared, layer.scope, report))
    for name in hypers.keys() & flat.hypers.keys():
        report(errors.duplicate("hyperparameter", name, use.name.span, flat.hypers[name][0].name.span))
    added = with_own_defaults(hypers, use, layer.hypers, scope, report)
    return replace(flat, hypers=flat.hypers | added, layers=(*flat.layers, layer))


def with_own_defaults(
    hypers: dict[str, tuple[ast.Hyper, Scope]], use: Use, names: Mapping[str, str], scope: Scope, report: Report
) -> dict[str, tuple[ast.Hyper, Scope]]:
    """The hypers with what a composition says of them, which must be of the kind that they are of."""
    changed = with_defaults(hypers, use, names, scope, report)
    for name, (hyper, _) in changed.items():
        require_same_default(use.name.name, hypers[name][0], hyper, report)
    return changed


def record_replaced(node: ast.Optimizer, base: FlatOptimizer, own: FlatOptimizer, references: References) -> None:
    """What an extension writes anew means what it replaces: hypers, events, rules by their roles, and equations."""
    for name in base.hypers.keys() & own.hypers.keys():
        below = base.hypers[name][0]
        references.record(own.hypers[name][0].name.span, "hyper", below.name.span, below.doc)
    for name in base.events.keys() & own.events.keys():
        event = base.events[name].node
        references.record(own.events[name].node.name.span, "event", event.name.span, event.doc)
    for member in node.members:
        for role in member.roles if isinstance(member, ast.Rule | ast.Delegate) else ():
            for rule in (rule for rule in base.rules if role.name in rule.words):
                references.record(role.span, "rule", rule.span)
    pairs = [(one.block, two.block) for one in base.rules for two in own.rules if {*one.words} & {*two.words}]
    pairs += [(base.events[name].block, own.events[name].block) for name in base.events.keys() & own.events.keys()]
    for one, two in pairs:
        for name in one.bindings.keys() & two.bindings.keys():
            references.record(two.bindings[name].name.span, "equation", one.bindings[name].name.span)


DEFAULTS: dict[type, str] = {ast.Number: "a number", ast.Boolean: "true or false", ast.Text: "a string"}


def require_same_default(base: str, below: ast.Hyper, above: ast.Hyper, report: Report) -> None:
    """A hyper that replaces the base's must be of the same kind, for the base's equations read it."""
    wanted, found = (DEFAULTS.get(type(each.default)) for each in (below, above))
    if above.default and wanted and found and wanted != found:
        place = f"`{above.name.name}` of `{base}`"
        report(errors.wrong_kind(place, wanted, found, above.default.span))


def find_optimizer(
    name: ast.Identifier, scope: Scope, path: tuple[str, ...], report: Report
) -> tuple[ast.Optimizer, Scope] | None:
    """The optimizer of that name; one that does not exist, or is being looked at already, is reported."""
    if name.name in path:
        cycle = [*path[path.index(name.name) :], name.name]
        report.once(errors.recursion(cycle, name.span), frozenset(cycle))
        return None
    if len(path) > PATH_LIMIT:
        report.once(errors.too_large("this refers to too many others in a row", PATH_LIMIT, name.span), "path")
        return None
    found = scope.find_optimizer(name)
    if isinstance(found, Diagnostic):
        report(found)
        return None
    if found is None:
        other = scope.kind_of(name.name)
        help_text = f"`{name.name}` is a {other}" if other else None
        report(errors.unknown_optimizer(name.name, name.span, scope.known_optimizers(), help_text))
    return found


# Inheritance


def merge_optimizers(base: FlatOptimizer, own: FlatOptimizer) -> FlatOptimizer:
    level = base.level + 1
    events = dict(base.events)
    for name, event in own.events.items():
        inherited = base.events.get(name)
        events[name] = replace(event, block=merge_blocks(inherited.block, event.block, level)) if inherited else event
    hypers = merge_hypers(base.hypers, own.hypers)
    rules, names = merge_rules(base.rules, own.rules, level), frozenset(base.hypers.keys() - own.hypers.keys())
    return replace(
        own, hypers=hypers, rules=rules, events=events, inherited=names, layers=base.layers,
        level=level, of_base=frozenset(base.hypers),
    )  # fmt: skip


Hypers = dict[str, tuple[ast.Hyper, Scope]]


def merge_hypers(base: Hypers, own: Hypers) -> Hypers:
    """The base's order and then the new ones; what is written again behind a new one stays behind it."""
    merged, is_behind_new = dict(base), False
    for name, hyper in own.items():
        is_behind_new |= name not in base
        if is_behind_new:
            merged.pop(name, None)
        merged[name] = hyper
    return merged


def merge_rules(base: tuple[FlatRule, ...], own: tuple[FlatRule, ...], level: int) -> tuple[FlatRule, ...]:
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
                merged.append(merge_rule(rule, change, shared, level))
    known = {word for rule in base for word in rule.words}
    for rule in own:
        fresh = tuple(word for word in rule.words if word not in known)
        if fresh:
            merged.append(replace(rule, words=fresh))
    return tuple(merged)


def merge_rule(base: FlatRule, own: FlatRule, words: tuple[str, ...], level: int) -> FlatRule:
    if own.delegate or base.delegate:
        return replace(own, words=words)
    seen = own.orientation or base.orientation
    return FlatRule(words, own.span, merge_blocks(base.block, own.block, level), orientation=seen)


def merge_blocks(base: Block, own: Block, level: int) -> Block:
    """Equation by equation. What the base claims of its equations need not hold of others, so they claim anew.

    What a state of the base was holds as long as its equation does, and nothing else is said of it.
    """

    def merged(below: dict[str, Definition], above: dict[str, Definition]) -> dict[str, Definition]:
        return below | {name: replace(each, below=below.get(name), level=level) for name, each in above.items()}

    claims = own.claims if own.bindings or own.updates else base.claims + own.claims
    told = {*own.bindings, *(past.node.target.name for past in own.was)}
    was = tuple(replace(past, is_inherited=True) for past in base.was if past.node.target.name not in told) + own.was
    dimension = own.dimension or base.dimension
    return Block(merged(base.bindings, own.bindings), merged(base.updates, own.updates), claims, was, dimension)
