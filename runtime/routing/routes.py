"""Routing: which role each parameter of a model has, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..contract.arguments import _is_named, _kind_of
from ..contract.interface import Rule
from .places import VIEW_KEYS, View, _places
from .roles import Occurrence, Surroundings, _role
from .trees import _tree_of, _tree_of_names

Named = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Route:
    """The role of one parameter, how it is read as matrices, and why."""

    name: str
    parameter: Tensor
    role: str
    view: View
    reason: str


def route(model: nn.Module | Named) -> list[Route]:
    """One Route per floating-point parameter, in the order of `named_parameters()`; tied parameters come once.

    Args:
        model: a module, or its named parameters, of which only names and shapes are known.

    Raises:
        TypeError: what is given is neither a module nor named parameters.
        ValueError: a parameter is lazy and has no shape yet.
    """
    given = _model_for("route", model)
    if isinstance(given, nn.Module):
        return _routes_of_module(given)
    named = {parameter: name for name, parameter in given}
    root, places = _tree_of_names((name, parameter) for parameter, name in named.items())
    known = Surroundings.of(root)
    uses = [Occurrence(p, node, own, known) for p, (node, own) in places.items() if p.is_floating_point()]
    return [Route(named[use.parameter], use.parameter, *_role(use)) for use in uses]


def _routes_of_module(model: nn.Module) -> list[Route]:
    root = _tree_of(model)
    known = Surroundings.of(root)
    uses: dict[Tensor, list[Occurrence]] = {}
    for node in root.below():
        for name, parameter in node.own.items():
            uses.setdefault(parameter, []).append(Occurrence(parameter, node, name, known))
    return [_route(places) for parameter, places in uses.items() if parameter.is_floating_point()]


def _route(uses: list[Occurrence]) -> Route:
    """The route of a parameter that may stand in several places; an embedding or head in any of them is one."""
    names = [".".join(filter(None, (use.node.path, use.name))) for use in uses]
    found = [_role(use) for use in uses]
    preferred = [f for role in ("embedding", "head") for f in found if f.role == role]
    role, view, reason = (*preferred, *found)[0]
    tied = f", tied to {', '.join(names[1:])}" if len(names) > 1 else ""
    return Route(names[0], uses[0].parameter, role, view, reason + tied)


def param_groups(model: nn.Module | Named) -> list[dict[str, Any]]:
    """The model's parameters as groups, one per role and view, for any generated optimizer or penalty.

    Raises:
        TypeError: what is given is neither a module nor named parameters.
    """
    groups: dict[tuple[str, View], dict[str, Any]] = {}
    for r in route(_model_for("param_groups", model)):
        asked = {key: getattr(r.view, key) for key in VIEW_KEYS if getattr(r.view, key) != getattr(View(), key)}
        group = groups.setdefault((r.role, r.view), {"params": [], "param_names": [], "rule": r.role, **asked})
        group["params"].append(r.parameter)
        group["param_names"].append(r.name)
    return list(groups.values())


def explain_routing(model: nn.Module | Named, optimizer_class: type[Any] | None = None) -> str:
    """A table: parameter, shape, role, rule (of the class, if given), view and the reason.

    The view is that of rules that see rows and columns: `8 of 64×32 transposed` are eight matrices.

    Raises:
        TypeError: the model or the class is something else.
    """
    if optimizer_class is not None and not hasattr(optimizer_class, "RULES"):
        raise TypeError(
            f"`explain_routing` takes a generated optimizer, which has rules, not {_kind_of(optimizer_class)}"
        )
    table = [("parameter", "shape", "role", "rule", "view", "why")]
    for r in route(_model_for("explain_routing", model)):
        rule = _rule_named(optimizer_class.RULES, r.role) if optimizer_class else None
        shape = "×".join(map(str, r.parameter.shape)) or "scalar"
        seen = rule.orientation if rule else None
        view = _describe_view(tuple(r.parameter.shape), r.view, seen) if r.role != "vector" else ""
        table.append((r.name, shape, r.role, rule.name if rule else "none", view, r.reason))
    if optimizer_class is None:
        table = [(*row[:3], *row[4:]) for row in table]  # type: ignore[misc]
    return _columns(table)


def _describe_view(shape: tuple[int, ...], view: View, orientation: str | None) -> str:
    places = _places("matrix", shape, view, orientation)
    units = [(f"{p.count} of " if p.count > 1 else "") + "×".join(map(str, p.unit)) for p in places]
    turned = [" transposed" if p.turned != p.transposed else "" for p in places]
    if len(set(turned)) == 1:
        return ", ".join(units) + turned[0]
    return ", ".join(map("".join, zip(units, turned, strict=True)))


def _model_for(function: str, given: Any) -> nn.Module | list[tuple[str, Tensor]]:
    """The module, or named parameters as a list; TypeError for anything else that the function is given."""
    if isinstance(given, nn.Module):
        return given
    pairs = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, Tensor, type)) else [given]
    if not all(map(_is_named, pairs)):
        raise TypeError(
            f"`{function}` takes a model, a torch.nn.Module, or its named parameters, not {_kind_of(given)}"
        )
    return pairs


def _columns(table: Sequence[Sequence[str]]) -> str:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def _rule_named(rules: Iterable[Rule], key: str) -> Rule | None:
    """The rule called `key`, or else the one for the role `key`."""
    rules = tuple(rules)
    return next((r for r in rules if r.name == key), None) or next((r for r in rules if key in r.roles), None)
