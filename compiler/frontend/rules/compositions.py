"""Compositions as they are written: ``Muon |> Grokfast(alpha=0.95)`` in, the optimizer and the wrappers around it out.

The hyperparameters of a wrapper become those of the whole: ``alpha`` of ``Grokfast`` is its ``grokfast_alpha``,
whatever else there is. Nothing here knows what a rule is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from optforge.compiler.frontend.reporting import Report, few
from optforge.compiler.frontend.rules.collecting import ROLES
from optforge.compiler.frontend.scopes import Scope
from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.source import Span

LAYER_LIMIT = 20
ONLY = "only"  # in place of a hyperparameter of a wrapper: the roles that it is for
LOWER_THEN_UPPER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Hyper = tuple[ast.Hyper, Scope]
Part = TypeVar("Part", bound=ast.Node)


@dataclass(frozen=True, slots=True)
class Use:
    """One part of a composition: an optimizer or a wrapper, with the defaults that it is given.

    ``only`` are the roles that a wrapper is for, where that is said: ``Cautious(only=matrix)``.
    """

    name: ast.Identifier
    keywords: tuple[tuple[ast.Identifier, ast.Expression], ...] = ()
    only: tuple[ast.Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A wrapper around an optimizer.

    ``label`` is what its equations and states are called by, which no two layers of an optimizer share; ``hypers`` says
    what its hyperparameters are called outside, ``only`` for which roles it is, where a composition says so.
    """

    label: str
    node: ast.Wrapper
    scope: Scope
    hypers: Mapping[str, str]
    span: Span
    only: tuple[str, ...] = ()

    def outside(self, name: str) -> str:
        """What a hyperparameter of the wrapper is called among those of the whole."""
        return f"{lower_words(self.label)}_{name}"


def read_composition(node: ast.Expression, report: Report) -> tuple[Use, ...] | None:
    """The parts of a composition, innermost first; None after reporting that it is none."""
    parts: list[ast.Expression] = []
    while isinstance(node, ast.Pipe):
        if node.repetition is not None:
            report(errors.bad_composition("a wrapper that is put around twice is written twice", node.repetition.span))
            return None
        parts.append(ast.Name(node.call.function.name, span=node.call.span) if node.bare else node.call)
        node = node.value
    uses = []
    for part in few([node, *reversed(parts)], LAYER_LIMIT, "wrappers around an optimizer"):
        match part:
            case ast.Name(name=name):
                uses.append(Use(ast.Identifier(name, span=part.span)))
            case ast.Call(function=function, arguments=(), keywords=keywords):
                only = [value for name, value in keywords if name.name == ONLY and uses]
                roles = only[0].items if only and isinstance(only[0], ast.Tuple) else tuple(only[:1])
                given = tuple(pair for pair in keywords if pair[1] not in only[:1])
                uses.append(Use(function, given, roles))
            case ast.Call(function=function, arguments=(first, *_)):
                hint = f"such as `{function.name}(name={first.span.text})`"
                report(errors.bad_composition("hyperparameters are given by name", first.span, hint))
                return None
            case _:
                hint = "an optimizer with the wrappers around it: `Muon |> Grokfast(alpha=0.95)`"
                report(errors.bad_composition("this is neither an optimizer nor a wrapper", part.span, hint))
                return None
    return tuple(uses)


def find_wrapper(name: ast.Identifier, scope: Scope, report: Report) -> tuple[ast.Wrapper, Scope] | None:
    """The wrapper of that name; one that does not exist is reported."""
    found = scope.find_wrapper(name)
    if isinstance(found, Diagnostic):
        report(found)
        return None
    if found is None:
        kind = scope.kind_of(name.name)
        hint = f"`{name.name}` is {'an' if kind == 'optimizer' else 'a'} {kind}" if kind else None
        if kind == "optimizer":
            hint = f"{hint}: what is wrapped comes first, `{name.name} |> ...`"
        report(errors.unknown_wrapper(name.name, name.span, scope.known_wrappers(), hint))
    return found


def layer_of(use: Use, found: tuple[ast.Wrapper, Scope], taken: Collection[str], report: Report) -> Layer:
    """The wrapper as a layer beside others, whose labels are ``taken``."""
    node, scope = found
    for role in use.only:
        if not isinstance(role, ast.Name) or role.name not in ROLES:
            shown = role.span.text
            report(errors.unknown_role(shown, role.span, ROLES))
    only = tuple(role.name for role in use.only if isinstance(role, ast.Name))
    label, count = use.name.name, 1
    while label in taken:
        count += 1
        label = f"{use.name.name}{count}"
    layer = Layer(label, node, scope, {}, use.name.span, only)
    names = (member.name.name for member in node.members if isinstance(member, ast.Hyper))
    return replace(layer, hypers={name: layer.outside(name) for name in names})


def lower_words(name: str) -> str:
    """``EMANesterov`` as ``ema_nesterov``."""
    return LOWER_THEN_UPPER.sub("_", name).lower()


def outer_hypers(layer: Layer, hypers: Mapping[str, Hyper]) -> dict[str, Hyper]:
    """The hyperparameters of a wrapper by the names that they, and what their conditions read, have outside."""
    return {layer.hypers[name]: (renamed(hyper, layer), scope) for name, (hyper, scope) in hypers.items()}


def renamed(hyper: ast.Hyper, layer: Layer) -> ast.Hyper:
    """What it was is said in names of older versions, all of which were names of the wrapper."""
    return replace(
        hyper,
        name=replace(hyper.name, name=layer.hypers[hyper.name.name]),
        condition=hyper.condition and with_names(hyper.condition, lambda name: layer.hypers.get(name, name)),
        before=hyper.before and with_names(hyper.before, lambda name: name if name == "pi" else layer.outside(name)),
    )


def with_names(node: Part, called: Callable[[str], str]) -> Part:
    """The same with its values called by other names."""

    def change(part: object) -> object:
        match part:
            case ast.Name(name=name):
                return replace(part, name=called(name))
            case ast.Identifier():
                return part
            case ast.Node():
                inner: dict[str, Any] = {field.name: change(getattr(part, field.name)) for field in fields(part)}
                return replace(part, **inner)
            case tuple():
                return tuple(map(change, part))
            case _:
                return part

    changed = change(node)
    assert isinstance(changed, type(node))
    return changed


def with_defaults(
    hypers: Mapping[str, Hyper], use: Use, names: Mapping[str, str], scope: Scope, report: Report
) -> dict[str, Hyper]:
    """The hyperparameters with the defaults that a composition gives them, which calls them by ``names``."""
    found, given = dict(hypers), set[str]()
    for keyword, value in use.keywords:
        outside = names.get(keyword.name)
        if outside is None:
            report(errors.bad_keyword(use.name.name, keyword.name, "has no hyperparameter", keyword.span, names))
            continue
        if keyword.name in given:
            report(errors.bad_keyword(use.name.name, keyword.name, "is given twice the argument", keyword.span, ()))
        given.add(keyword.name)
        meant, home = hypers[outside]
        scope.references.record(keyword.span, "hyper", meant.name.span, meant.doc)
        found[outside] = replace(meant, default=value), home
    return found
