"""The members of an optimizer or a wrapper by their names: its hypers, rules and events, each with its equations.

Takes members as they are written; names inside equations stay unresolved. What stands twice, or where it cannot, is
reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optforge.compiler.frontend.builtins import RESERVED
from optforge.compiler.frontend.reporting import EQUATION_LIMIT, Report, few
from optforge.compiler.frontend.scopes import Scope
from optforge.dsl import ast, errors
from optforge.dsl.source import Span

MEMBER_LIMIT = 300  # hypers and events that an optimizer may have

ROLES = ("matrix", "conv", "embedding", "head", "vector")
RULE_WORDS = (*ROLES, "rest", "tensor")
TENSOR_WORDS = {"tensor", "rest", "vector"}  # of rules that see no rows and columns
ORIENTATIONS = ("wide", "tall")


@dataclass(frozen=True, slots=True)
class Definition:
    """The right-hand side of an equation, where its functions are found, and what it replaced.

    ``level`` counts the optimizers that are extended below the one that it stands in. What is ``shared`` in the base
    is so under any equation that replaces it.
    """

    name: ast.Identifier
    value: ast.Expression
    scope: Scope
    below: Definition | None = None
    level: int = 0
    shared: bool = False

    @property
    def is_shared(self) -> bool:
        return self.shared or (self.below is not None and self.below.is_shared)


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
    dimension: Definition | None = None


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
            other = next((word for word in words if word in TENSOR_WORDS), None)
            if block.dimension is not None and other:
                problem = f"`for {other}` takes parameters that have no rows and columns"
                report(errors.bad_dimension(problem, block.dimension.name.span))
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
    dimension: Definition | None = None
    mistaken: list[ast.Update] = []
    for statement in few(statements, EQUATION_LIMIT, "equations"):
        match statement:
            case ast.Claim():
                claims.append((statement, scope))
            case ast.Was():
                was.append(Past(statement, scope))
            case ast.Dimension(name=name, size=size) if dimension is None:
                dimension = Definition(name, size, scope)
            case ast.Dimension(name=name):
                report(errors.bad_dimension("a rule has one dimension of its own", name.span))
            case ast.Binding(target=name, value=value) if name.name == target:
                report_bound_result(name, report)
                block.updates.setdefault(target, Definition(name, value, scope))
            case ast.Binding(target=name, value=value, shared=shared):
                if shared and target != "weight":
                    report(errors.not_shared("a penalty remembers nothing, and so it has no shared values", name.span))
                if name.name in block.bindings:
                    report(errors.duplicate("value", name.name, name.span, block.bindings[name.name].name.span))
                else:
                    block.bindings[name.name] = Definition(name, value, scope, shared=shared)
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
    if dimension is not None and target != "weight":
        report(errors.bad_dimension("a penalty has no dimension of its own", dimension.name.span))
    return replace(block, claims=tuple(claims), was=tuple(was), dimension=dimension)


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
