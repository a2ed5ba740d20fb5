"""Routing: which role a module's parameter has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .interface import Rule
from .places import _places

HEAD_NAMES = ("lm_head", "head", "heads", "output", "classifier", "score", "logits", "embed_out", "unembed", "fc_out")
EMBEDDING_HINT = re.compile(r"(^|[._])(wte|wpe|pos|position\w*|\w*embed\w*|\w*_emb|emb|\w*tokens?)($|[._])")


@dataclass(frozen=True)
class Route:
    """The role of one parameter of a module, and why; `transposed` if rows and columns are swapped in storage."""

    name: str
    parameter: nn.Parameter
    role: str
    transposed: bool
    reason: str


def route(model: nn.Module) -> list[Route]:
    """One Route per parameter of the model, in the order of `model.named_parameters()`; tied parameters come once."""
    uses: dict[nn.Parameter, list[tuple[str, str, nn.Module]]] = {}
    vocabularies = {size for module in model.modules() if (size := getattr(module, "num_embeddings", None))}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            uses.setdefault(parameter, []).append((path, name, module))
    return [_route_one(p, places, vocabularies) for p, places in uses.items() if p.is_floating_point()]


def _route_one(parameter: nn.Parameter, uses: list[tuple[str, str, nn.Module]], vocabularies: set[int]) -> Route:
    path, name, _ = uses[0]
    found = [_role_of_use(parameter, *use, vocabularies) for use in uses]
    role, transposed, reason = next((f for f in found if f[0] == "embedding"), found[0])
    if len(uses) > 1:
        others = ", ".join(".".join(filter(None, use[:2])) for use in uses[1:])
        reason += f", tied to {others}"
    return Route(".".join(filter(None, (path, name))), parameter, role, transposed, reason)


def _role_of_use(
    parameter: nn.Parameter, path: str, name: str, module: nn.Module, vocabularies: set[int]
) -> tuple[str, bool, str]:
    """(role, transposed, reason) of a parameter as the attribute `name` of the module at `path`."""
    kind = type(module).__name__
    if nn.parameter.is_lazy(parameter):
        raise ValueError(f"{path}.{name} has no shape yet: run the model once before its optimizer is made")
    if parameter.ndim < 2:
        return "vector", False, f"{parameter.ndim}-D"
    if hasattr(module, "num_embeddings") and name == "weight":
        return "embedding", False, kind
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "conv", True, f"{kind}, stored by inputs"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "conv", False, kind
    if kind == "Conv1D" and hasattr(module, "nf"):
        return "matrix", True, f"{kind}, stored by inputs"
    if hasattr(module, "out_features") and name == "weight":
        return _role_of_linear(path, module, vocabularies)
    if isinstance(module, nn.MultiheadAttention):
        return "matrix", False, f"{kind}, 3 matrices in one (split=3)" if name == "in_proj_weight" else kind
    if isinstance(module, nn.RNNBase):
        return "matrix", False, kind
    if sum(size > 1 for size in parameter.shape) < 2:
        return "vector", False, "one dimension above 1"
    if EMBEDDING_HINT.search(f"{path}.{name}".lower()):
        return "embedding", False, "by its name"
    return "matrix", False, f"{parameter.ndim}-D, in {kind}"


def _role_of_linear(path: str, module: nn.Module, vocabularies: set[int]) -> tuple[str, bool, str]:
    """A head is named like one, or has one output per embedding, and is in no repeated block (`h.3.mlp.output`)."""
    *parents, last = path.split(".")
    in_block = any(parent.isdigit() for parent in parents)
    if not in_block and last in HEAD_NAMES:
        return "head", False, f"{type(module).__name__}, by its name"
    if not in_block and module.out_features in vocabularies:
        return "head", False, f"{type(module).__name__}, as many outputs as an embedding has entries"
    return "matrix", False, type(module).__name__


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The model's parameters as groups, one per role and view, for any generated optimizer."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`param_groups` takes a model, a torch.nn.Module, not {_kind_of(model)}")
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for r in route(model):
        group = groups.setdefault((r.role, r.transposed), {"params": [], "param_names": [], "rule": r.role})
        group["params"].append(r.parameter)
        group["param_names"].append(r.name)
        if r.transposed:
            group["transposed"] = True
    return list(groups.values())


def explain_routing(model: nn.Module, optimizer_class: type[Any] | None = None) -> str:
    """A table: parameter, shape, role, rule (of the class, if given), view and the reason."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`explain_routing` takes a model, a torch.nn.Module, not {_kind_of(model)}")
    if optimizer_class is not None and not hasattr(optimizer_class, "RULES"):
        raise TypeError(
            f"`explain_routing` takes a generated optimizer, which has rules, not {_kind_of(optimizer_class)}"
        )
    table = [("parameter", "shape", "role", "rule", "view", "why")]
    for r in route(model):
        rule = _rule_named(optimizer_class.RULES, r.role) if optimizer_class else None
        rows, cols = _places("matrix", tuple(r.parameter.shape), r.transposed, None)[0].unit
        view = "" if r.parameter.ndim < 2 else f"{rows}×{cols}" + (" transposed" if r.transposed else "")
        shape = "×".join(map(str, r.parameter.shape)) or "scalar"
        table.append((r.name, shape, r.role, rule.name if rule else "none", view, r.reason))
    if optimizer_class is None:
        table = [(*row[:3], *row[4:]) for row in table]  # type: ignore[misc]
    return _columns(table)


def _kind_of(value: Any) -> str:
    """What something is, for messages."""
    return (
        f"the class {value.__qualname__}" if isinstance(value, type) else f"a value of type {type(value).__qualname__}"
    )


def _columns(table: Sequence[Sequence[str]]) -> str:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def _rule_named(rules: Iterable[Rule], key: str) -> Rule | None:
    """The rule called `key`, or else the one for the role `key`."""
    rules = tuple(rules)
    return next((r for r in rules if r.name == key), None) or next((r for r in rules if key in r.roles), None)
