"""``extends`` written out: an optimizer with all it inherits, as if it stood in one place.

Takes surface optimizers, gives :class:`FlatOptimizer`; names inside equations stay unresolved.
An equation that replaces another keeps the replaced one below it, for ``super``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optforge.compiler.frontend.builtins import RESERVED
from optforge.compiler.frontend.references import References
from optforge.compiler.frontend.reporting import EQUATION_LIMIT, Report, few
from optforge.compiler.frontend.scopes import Scope
from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.source import Span

# How many hypers and events an optimizer may have, and how many that `extends` and `use` lead to, one after another.
MEMBER_LIMIT = 300
PATH_LIMIT = 20

ROLES = ("matrix", "conv", "embedding", "head", "vector")
RULE_WORDS = (*ROLES, "rest", "tensor")
TENSOR_WORDS = {"tensor", "rest", "vector"}  # of rules that see no rows and columns
ORIENTATIONS = ("wide", "tall")


@dataclass(frozen=True, slots=True)
class Definition:
    """The right-hand side of an equation, where its functions are found, and what it replaced."""

    name: ast.Identifier
    value: ast.Expression
    scope: Scope
    below: Definition | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a state was in older versions, and whether that was said of the base."""

    node: ast.Was
    scope: Scope
    is_inherited: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """The equations of a rule, event or schedule: bindings by name and the ``<-`` results."""

    bindings: dict[str, Definition] = field(default_factory=dict)
    updates: dict[str, Definition] = field(default_factory=dict)
    claims: tuple[tuple[ast.Claim, Scope], ...] = ()
    was: tuple[Past, ...] = ()


@dataclass(frozen=True, slots=True)
class FlatRule:
    """A rule with all it inherits; ``words`` are those behind ``for``."""

    words: tuple[str, ...]
    span: Span
    block: Block
    delegate: tuple[ast.Delegate, Scope] | None = None
    orientation: str = ""  # how its matrices are seen: "wide", "tall", or as they are


@dataclass(frozen=True, slots=True)
class FlatEvent:
    """An event with all it inherits."""

    node: ast.Event
    scope: Scope
    block: Block


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


def flatten_optimizer(
    node: ast.Optimizer, scope: Scope, report: Report, path: tuple[str, ...] = ()
) -> FlatOptimizer | None:
    """The optimizer with its base's hypers, rules and events merged in; None without its base."""
    name = node.name.name
    events = collect_events([member for member in node.members if isinstance(member, ast.Event)], scope, report)
    own = FlatOptimizer(
        name,
        node.doc.value if node.doc else "",
        node.name.span,
        collect_hypers([member for member in node.members if isinstance(member, ast.Hyper)], scope, report),
        collect_rules([m for m in node.members if isinstance(m, ast.Rule | ast.Delegate)], "weight", scope, report),
        events,
        declared=tuple(event.node.name for event in events.values()),
    )
    if node.base is None:
        return own
    found = find_optimizer(node.base, scope, (*path, name), report)
    base = None if found is None else flatten_optimizer(*found, report, (*path, name))
    if base is None:
        return None
    for name in base.hypers.keys() & own.hypers.keys():
        require_same_default(base.name, base.hypers[name][0], own.hypers[name][0], report)
    record_replaced(node, base, own, scope.references)
    return merge_optimizers(base, own)


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


def collect_hypers(hypers: list[ast.Hyper], scope: Scope, report: Report) -> dict[str, tuple[ast.Hyper, Scope]]:
    collected: dict[str, tuple[ast.Hyper, Scope]] = {}
    for hyper in few(hypers, MEMBER_LIMIT, "hyperparameters"):
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
        span = member.roles[0].span.to(member.roles[-1].span)
        if isinstance(member, ast.Delegate):
            rules.append(FlatRule(words, span, Block(), (member, scope)))
        else:
            orientation = orientation_of(member, target, report)
            block = collect_block(member.statements, target, scope, report)
            rules.append(FlatRule(words, span, block, orientation=orientation))
    return tuple(rules)


def orientation_of(rule: ast.Rule, target: str, report: Report) -> str:
    """How a rule sees its matrices: "wide", "tall", or "" for as they are; what there is not is reported."""
    if rule.orientation is None:
        return ""
    name, span = rule.orientation.name, rule.orientation.span
    other = next((role.name for role in rule.roles if role.name in TENSOR_WORDS), None)
    if name not in ORIENTATIONS:
        hint = errors.suggest_nearest(name, ORIENTATIONS) or "matrices are seen `as wide` or `as tall`"
        report(errors.bad_orientation(f"matrices are not seen as `{name}`", span, hint))
    elif target != "weight":
        report(errors.bad_orientation("a penalty sees matrices as they are", span))
    elif other:
        report(errors.bad_orientation(f"`for {other}` takes parameters that have no rows and columns", span))
    else:
        return name
    return ""


def collect_block(
    statements: tuple[ast.Statement | ast.Hyper, ...], target: str, scope: Scope, report: Report
) -> Block:
    """Sort statements into bindings, results and claims; ``target`` is what may stand left of ``<-``."""
    block = Block()
    claims = []
    was = []
    mistaken: list[ast.Update] = []
    for statement in few(statements, EQUATION_LIMIT, "equations"):
        match statement:
            case ast.Claim():
                claims.append((statement, scope))
            case ast.Was():
                was.append(Past(statement, scope))
            case ast.Binding(target=name, value=value) if name.name == target:
                report_bound_result(name, report)
                block.updates.setdefault(target, Definition(name, value, scope))
            case ast.Binding(target=name, value=value):
                if name.name in block.bindings:
                    report(errors.duplicate("value", name.name, name.span, block.bindings[name.name].name.span))
                else:
                    block.bindings[name.name] = Definition(name, value, scope)
            case ast.Update(target=name, value=value):
                if name.name != target:
                    mistaken.append(statement)
                elif name.name in block.updates:
                    report(errors.duplicate_update(name.name, name.span, block.updates[name.name].name.span))
                else:
                    block.updates[name.name] = Definition(name, value, scope)
            case ast.Hyper():
                continue
    for update in mistaken:
        take_mistaken(update, block, target, scope, report)
    return replace(block, claims=tuple(claims), was=tuple(was))


def report_bound_result(name: ast.Identifier, report: Report) -> None:
    help_text = f"the result is written with an arrow: `{name.name} <- ...`"
    if name.name in RESERVED:
        report(errors.reserved_name(name.name, name.span, help_text))
    else:
        report(errors.missing_update(name.name, name.span, help_text))


def take_mistaken(update: ast.Update, block: Block, target: str, scope: Scope, report: Report) -> None:
    """Report ``<-`` on something else than the target, and take it for what was probably meant."""
    name = update.target
    definition = Definition(name, update.value, scope)
    if name.name in RESERVED:
        report(errors.wrong_update(name.name, target, name.span, f"the result here is `{target} <- ...`"))
        block.updates.setdefault(target, definition)
        return
    report(errors.wrong_update(name.name, target, name.span))
    if errors.suggest_nearest(name.name, [target]):
        block.updates.setdefault(target, definition)
    else:
        block.bindings.setdefault(name.name, definition)


def collect_events(events: list[ast.Event], scope: Scope, report: Report) -> dict[str, FlatEvent]:
    collected: dict[str, FlatEvent] = {}
    for event in few(events, MEMBER_LIMIT, "events"):
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
    hypers = merge_hypers(base.hypers, own.hypers)
    rules, names = merge_rules(base.rules, own.rules), frozenset(base.hypers.keys() - own.hypers.keys())
    return replace(own, hypers=hypers, rules=rules, events=events, inherited=names)


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
    seen = own.orientation or base.orientation
    return FlatRule(words, own.span, merge_blocks(base.block, own.block), orientation=seen)


def merge_blocks(base: Block, own: Block) -> Block:
    """Equation by equation. What the base claims of its equations need not hold of others, so they claim anew.

    What a state of the base was holds as long as its equation does, and nothing else is said of it.
    """

    def merged(below: dict[str, Definition], above: dict[str, Definition]) -> dict[str, Definition]:
        return below | {name: replace(definition, below=below.get(name)) for name, definition in above.items()}

    claims = own.claims if own.bindings or own.updates else base.claims + own.claims
    told = {*own.bindings, *(past.node.target.name for past in own.was)}
    was = tuple(replace(past, is_inherited=True) for past in base.was if past.node.target.name not in told) + own.was
    return Block(merged(base.bindings, own.bindings), merged(base.updates, own.updates), claims, was)
