"""``x was ...``: what states and hyperparameters were in older versions of a spec.

In: surface forms of a rule or of hypers. Out: functions of the older values, typed, which a checkpoint is read through.
What an older version had is known only to its checkpoints: every name that is no hyper of this version is taken for
one of theirs, and missed when a checkpoint without it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from optforge.compiler.frontend.builtins import UNIVERSAL
from optforge.compiler.frontend.equations import Equations
from optforge.compiler.frontend.expressions import Lookup, Place
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.reserved_names import require_usable_name
from optforge.compiler.frontend.resolved import RawWas
from optforge.compiler.frontend.rules.collecting import Past
from optforge.compiler.frontend.scopes import Scope
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.dsl import ast, errors

PLACE = "what a state was"


def resolve_past(
    past: Sequence[Past], hypers: Mapping[str, ir.Expr], report: Report, layer: str = ""
) -> tuple[RawWas, ...]:
    """What the states of a rule were: hypers are those of today, `t` the steps taken, other names old states.

    Names in a wrapper, the ``layer``, are those of its own states; a string is the whole name of any state.
    """

    def lookup(scope: Scope, name: ast.Name) -> ir.Expr | None:
        if name.name in ("t", "pi"):
            return UNIVERSAL[name.name]
        if name.name in UNIVERSAL or name.name == "super":
            report(errors.not_available(name.name, PLACE, name.span))
            return UNIVERSAL["pi"]
        if name.name in hypers:
            scope.references.record(name.span, "hyper", hypers[name.name].span)
            return hypers[name.name]
        require_usable_name(ast.Identifier(name.name, span=name.span), "value", report)
        return ir.Input(EquationName.of(name.name, layer=layer).shown, ir.InputSource.STATE)

    found = []
    for each in past:
        node = each.node.value
        if isinstance(node, ast.Text):  # a state whose name is no name of the language, such as "u.s"
            value: ir.Expr = ir.Input(node.value, ir.InputSource.STATE, span=node.span)
        else:
            value = past_value(node, each.scope, partial(lookup, each.scope), report)
        target = EquationName.of(each.node.target.name, layer=layer).shown
        found.append(RawWas(target, value, each.node.span, each.is_inherited or bool(layer)))
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
        return ir.Input(name.name, ir.InputSource.HYPER)

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
    hypers: Mapping[str, tuple[ast.Hyper, Scope]], prefix: str, visible: Collection[str], report: Report
) -> dict[str, RawWas]:
    """What the hypers of a used optimizer were, by the names that they and the older ones have outside of it."""

    def shown(expr: ir.Expr) -> ir.Expr:
        if isinstance(expr, ir.Input) and expr.source is ir.InputSource.HYPER:
            return replace(expr, name=f"{prefix}{expr.name}")
        return ir.map_children(shown, expr)

    unbound = {name: each for name, each in hypers.items() if f"{prefix}{name}" in visible}
    found = resolve_hyper_past(unbound, report)
    return {name: replace(w, target=name, value=shown(w.value)) for w in found if (name := f"{prefix}{w.target}")}


def require_no_past(nodes: Sequence[ast.Node], what: str, report: Report) -> None:
    """Only optimizers have checkpoints that a spec can speak of."""
    for node in nodes:
        if isinstance(node, ast.Was) or (isinstance(node, ast.Hyper) and node.before is not None):
            report(errors.not_available("was", what, node.span))


def past_value(node: ast.Expression, scope: Scope, lookup: Lookup, report: Report) -> ir.Expr:
    """The expression with its calls written out."""
    local = Equations(report.growth)
    place = Place(scope, lookup, local, report, EquationName.of("was"), state=False, totals=False, what=PLACE)
    return local.written_out(place.expression(node), node.span, report)
