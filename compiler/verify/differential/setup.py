"""A spec and another optimizer made ready: which rules, hypers and names the scenarios range over.

Takes what the command line or `optforge.testing` give; what does not fit raises :class:`NameProblem` or LookupError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optforge.compiler.driver import FUNCTIONS_ONLY
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import calls_of
from optforge.compiler.load import WORKSPACE, module_for, program_for, source_of
from optforge.compiler.verify.differential.names import NameProblem, match_names, require_hypers
from optforge.compiler.verify.differential.scenarios import ABILITIES, Space
from optforge.compiler.verify.differential.side_by_side import Pair
from optforge.compiler.verify.shared.hyper_values import Hyper, HyperValues
from optforge.dsl.source import Source

ROLES = ("matrix", "conv", "embedding", "head", "vector")


@dataclass(frozen=True)
class Options:
    """What the user says about a pair; see `optforge fuzz --help`."""

    names: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Hyper] = field(default_factory=dict)
    optimizer: str | None = None
    rest: bool = False
    role_key: str | None = None
    dtypes: tuple[str, ...] = ("float64", "float32")
    groups: int = 2
    tolerance: float | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """A pair, the space of its scenarios, and the spec that its script quotes."""

    pair: Pair
    space: Space
    source: Source
    target: str


def set_up(spec: str | Path, factory: Callable[..., Any], options: Options, target: str = "") -> Setup:
    """Everything about a pair between a spec (a path, or a shipped optimizer's name) and a factory."""
    source, folder = read_spec(spec)
    WORKSPACE.refresh()
    snapshot = WORKSPACE.snapshot_of(source, folder)
    program = program_for(snapshot)
    declaration = choose(program, source.path, options.optimizer, str(spec))
    ours = getattr(module_for(snapshot), declaration.name)
    return setup_of(source, declaration, ours, factory, options, target)


def setup_of(
    source: Source, declaration: ir.Optimizer, ours: type, factory: Callable[..., Any], options: Options, target: str
) -> Setup:
    unknown = [each for each in options.without if each not in ABILITIES]
    if unknown:
        raise NameProblem(f"there is no ability `{unknown[0]}`; there are {', '.join(ABILITIES)}")
    without = frozenset(options.without)
    hypers = [hyper.name for hyper in declaration.hypers]
    require_hypers(options.fixed, hypers)
    names = match_names(hypers, factory, options.names)
    values = HyperValues(declaration, {**drop_names(declaration, names.targets), **options.fixed})
    if not values.holds(values.defaults):
        raise NameProblem("the fixed values break a condition of the spec")
    told = options.role_key is not None
    space = Space(
        values, roles_of(declaration, options.rest or told, told), told, options.dtypes, options.groups, without,
        events_of(declaration, factory),
    )  # fmt: skip
    pair = Pair(ours, declaration, factory, names, options.role_key, options.tolerance, without)
    return Setup(pair, space, source, target)


def read_spec(spec: str | Path) -> tuple[Source, Path]:
    """The text of a spec under the name that messages use, and the folder of its neighbours."""
    return source_of(spec)


def choose(program: ir.Program, path: str, wanted: str | None, spec: str) -> ir.Optimizer:
    """The optimizer that is wanted; else the one that the spec was asked for by, or the only one."""
    if not program.declarations:
        raise LookupError(f"{path} {FUNCTIONS_ONLY}")
    found = {each.name: each for each in program.declarations if isinstance(each, ir.Optimizer)}
    if not found:
        raise LookupError(f"{path} defines no optimizer")
    if wanted is not None and wanted not in found:
        raise LookupError(f"{path} defines no optimizer `{wanted}`, but {', '.join(found)}")
    if wanted is None and spec not in found and len(found) > 1:
        raise LookupError(f"{path} defines {', '.join(found)}: say which one")
    return found.get(wanted or spec) or next(iter(found.values()))


def drop_names(declaration: ir.Optimizer, targets: Iterable[str]) -> dict[str, Any]:
    """The hypers that the other does not know, at their defaults; one without default must be known."""
    known = set(targets)
    missing = [hyper.name for hyper in declaration.hypers if hyper.name not in known and hyper.default is None]
    if missing:
        raise NameProblem(f"`{missing[0]}` has no default: say what the other optimizer calls it")
    return {h.name: h.default.value for h in declaration.hypers if h.name not in known and h.default}


def roles_of(declaration: ir.Optimizer, rest: bool, told: bool) -> tuple[str, ...]:
    """The roles of parameters; "any" where one rule takes every shape as it is."""
    rules = {role: rule for rule in declaration.rules for role in rule.roles}
    if told:
        return tuple(role for role in ROLES if role in rules)
    if len(declaration.rules) == 1 and set(ROLES) <= set(rules):
        return ("any",)
    wanted = ("matrix", "vector") if rest or "matrix" not in rules else ("matrix",)
    return tuple(role for role in wanted if role in rules)


def events_of(declaration: ir.Optimizer, factory: Callable[..., Any]) -> dict[str, tuple[ir.Hyper, ...]]:
    """The events that the other has a method for, with their arguments; none that are given more than numbers."""
    calls = {name: each for name, each in calls_of(declaration.rules).items() if not any(a.shape for a in each)}
    return {name: calls[name] for name in calls if inspect.isroutine(getattr(factory, name, None))}
