"""``x was ...``: what memories and hyperparameters were in older versions of a spec.

In: surface forms of a rule or of hypers. Out: functions of the older values, typed, which a checkpoint is read through.
What an older version had is known only to its checkpoints: every name that is no hyper of this version is taken for
one of theirs, and missed when a checkpoint without it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from optforge.compiler.frontend.builtins import UNIVERSAL
from optforge.compiler.frontend.equations import Equations
from optforge.compiler.frontend.expressions import Lookup, Place
from optforge.compiler.frontend.inheritance import Past
from optforge.compiler.frontend.library import Report, Scope
from optforge.compiler.frontend.reserved_names import require_usable_name
from optforge.compiler.frontend.resolved import RawWas
from optforge.compiler.frontend.types.inference import Inference, Types
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Kind, Type, Universe
from optforge.dsl import ast, errors

PLACE = "what a memory was"


def resolve_past(past: Sequence[Past], hypers: Mapping[str, ir.Expr], report: Report) -> tuple[RawWas, ...]:
    """What the memories of a rule were: hypers are those of today, `t` the steps taken, other names old memories."""

    def lookup(name: ast.Name) -> ir.Expr | None:
        if name.name in ("t", "pi"):
            return UNIVERSAL[name.name]
        if name.name in UNIVERSAL or name.name == "super":
            report(errors.not_available(name.name, PLACE, name.span))
            return UNIVERSAL["pi"]
        if name.name in hypers:
            return hypers[name.name]
        require_usable_name(ast.Identifier(name.name, span=name.span), "value", report)
        return ir.Input(name.name, ir.Source.MEMORY)

    found = []
    for each in past:
        node = each.node.value
        if isinstance(node, ast.Text):  # a memory whose name is no name of the language, such as "u.s"
            value: ir.Expr = ir.Input(node.value, ir.Source.MEMORY, span=node.span)
        else:
            value = past_value(node, each.scope, lookup, report)
        found.append(RawWas(each.node.target.name, value, each.node.span, each.is_inherited))
    return tuple(found)


def resolve_hyper_past(hypers: Mapping[str, tuple[ast.Hyper, Scope]], report: Report) -> tuple[RawWas, ...]:
    """What hypers were: a function of the hypers of an older version."""

    def lookup(name: ast.Name) -> ir.Expr | None:
        if name.name == "pi":
            return UNIVERSAL["pi"]
        if name.name in UNIVERSAL or name.name == "super":
            report(errors.not_available(name.name, "what a hyperparameter was", name.span))
            return UNIVERSAL["pi"]
        require_usable_name(ast.Identifier(name.name, span=name.span), "hyperparameter", report)
        return ir.Input(name.name, ir.Source.HYPER)

    found = []
    for name, (node, scope) in hypers.items():
        if node.before is not None:
            value = past_value(node.before, scope, lookup, report)
            if any(isinstance(each, ir.Input) and each.name == name for each in ir.walk(value)):
                words = f"a checkpoint's `{name}` cannot be told from that of an older version"
                report(errors.bad_past(words, node.before.span, "give the new hyperparameter another name"))
            found.append(RawWas(name, value, node.before.span, False))
    return tuple(found)


def used_hyper_past(
    hypers: Mapping[str, tuple[ast.Hyper, Scope]], word: str, visible: Collection[str], report: Report
) -> dict[str, RawWas]:
    """What the hypers of a used optimizer were, by the names that they and the older ones have outside of it."""

    def shown(expr: ir.Expr) -> ir.Expr:
        if isinstance(expr, ir.Input) and expr.source is ir.Source.HYPER:
            return replace(expr, name=f"{word}_{expr.name}")
        return ir.map_children(shown, expr)

    unbound = {name: each for name, each in hypers.items() if f"{word}_{name}" in visible}
    found = resolve_hyper_past(unbound, report)
    return {name: replace(w, target=name, value=shown(w.value)) for w in found if (name := f"{word}_{w.target}")}


def require_no_past(nodes: Sequence[ast.Node], what: str, report: Report) -> None:
    """Only optimizers have checkpoints that a spec can speak of."""
    for node in nodes:
        if isinstance(node, ast.Was) or (isinstance(node, ast.Hyper) and node.before is not None):
            report(errors.not_available("was", what, node.span))


def past_value(node: ast.Expression, scope: Scope, lookup: Lookup, report: Report) -> ir.Expr:
    """The expression with its calls written out."""
    local = Equations(report.growth)
    place = Place(scope, lookup, local, report, "was", "was", memory=False, totals=False, what=PLACE)
    return local.written_out(place.expression(node), node.span, report)


def check_past(
    was: Sequence[RawWas], memories: Sequence[ir.Memory], hypers: Sequence[ir.Hyper], report: Report
) -> tuple[ir.Function, ...]:
    """A typed function for each memory that was something else; every old memory has the shape of the new one."""
    found = []
    types = {memory.name: memory.type for memory in memories}
    kinds = {(ir.Source.HYPER, hyper.name): hyper.kind for hyper in hypers}
    for each in was:
        if each.target in types:
            found.append(past_function(each, types[each.target], kinds, report))
        elif not each.is_inherited:
            hint = errors.nearest(each.target, types) or (f"it has {errors.listed(types, 'and')}" if types else None)
            report(errors.bad_past(f"`{each.target}` is no memory of this rule", each.span, hint))
    return tuple(found)


def past_function(was: RawWas, target: Type, kinds: Mapping[ir.Key, Kind], report: Report) -> ir.Function:
    """The function of one memory. Elementwise, so that it need not know how a state is laid out."""
    inputs = [node for node in ir.walk(was.value) if isinstance(node, ir.Input)]
    known: Types = {node.key: target for node in inputs if node.source is ir.Source.MEMORY}
    value = Inference("was", Universe.MATRIX, "", known, kinds, {}, report).typed(was.value)
    if value.type.kind is not Kind.NUMBER:
        report(errors.wrong_kind("`was`", Kind.NUMBER.value, value.type.kind.value, value.span))
    for node in ir.walk(value):
        if isinstance(node, ir.Apply) and not (OPERATORS[node.operator].elementwise or node.type.is_scalar_phase):
            hint = "use elementwise operators, hyperparameters and `t`"
            report(errors.bad_past(f"`{node.operator}` is more than a renaming or rescaling", node.span, hint))
    return ir.Function("was", Universe.TENSOR, (), (ir.Output(was.target, value),))


def check_hyper_past(was: Sequence[RawWas], hypers: Sequence[ir.Hyper], report: Report) -> tuple[ir.Function, ...]:
    """A typed function for each hyper that was something else; an old one standing alone is of the new one's kind."""
    found = []
    kinds = {hyper.name: hyper.kind for hyper in hypers}
    for each in (each for each in was if each.target in kinds):
        wanted = kinds[each.target]
        alone = {each.value.key: wanted} if isinstance(each.value, ir.Input) else {}
        value = Inference("was", Universe.TENSOR, "", {}, alone, {}, report).typed(each.value)
        if value.type.kind is not wanted:
            report(errors.wrong_kind(f"`{each.target} was`", wanted.value, value.type.kind.value, value.span))
        found.append(ir.Function("was", Universe.TENSOR, (), (ir.Output(each.target, value),)))
    return tuple(found)
