"""What can be compared: spec files, shipped specs, and classes of any module.

Takes texts such as ``NAMO``, ``mine.opt?lr=0.1``, ``family.opt:Second`` or ``torch.optim:Muon?lr=0.02``; gives
targets that make an optimizer of one parameter. Runs nothing but imports and constructors.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import class_in, module_for, snapshot_for

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

NO_NAMES: Mapping[str, str] = {}


class TargetProblem(Exception):
    """A target that cannot be found, made or run."""


@dataclass(frozen=True)
class ComparedTarget:
    """``make`` gives an optimizer of one parameter; ``spec`` is the checked optimizer, where there is one.

    ``states`` are the names that specs have for what classes keep under names of their own.
    """

    label: str
    name: str
    make: Callable[[Parameter], Optimizer]
    spec: ir.Optimizer | None = None
    states: Mapping[str, str] = field(default_factory=dict)

    def optimizer(self, parameter: Parameter) -> Optimizer:
        """A new optimizer; what its constructor objects to is a :class:`TargetProblem`."""
        try:
            return self.make(parameter)
        except Exception as error:
            raise TargetProblem(f"{self.label}: {error}") from error


def parse_target(text: str, states: Mapping[str, str] = NO_NAMES) -> ComparedTarget:
    """The target that a text names, with its options; ``states`` are of classes."""
    place, _, options = text.partition("?")
    given = parse_options(options, text)
    before, colon, after = place.rpartition(":")
    if colon and not before.endswith(".opt"):
        return class_target(text, before, after, given, states)
    return spec_target(text, before or place, after if before else None, given, states)


def parse_options(text: str, target: str) -> dict[str, Any]:
    """``lr=0.1&nesterov=true`` as constructor arguments."""
    options: dict[str, Any] = {}
    for part in text.split("&") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise TargetProblem(f"{target}: options are written ?name=value&name=value, not `{part}`")
        if name in options:
            raise TargetProblem(f"{target}: `{name}` is given twice")
        options[name] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """A Python literal, or a flag as specs write it; any other text is a string."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# Specs


def spec_target(
    label: str, place: str, name: str | None, options: Mapping[str, Any], states: Mapping[str, str]
) -> ComparedTarget:
    """The optimizer of a spec file, or of a shipped spec by the name of the class or of the file."""
    shipped = SPECS / f"{place}.opt"
    try:
        snapshot = snapshot_for(shipped if place.isidentifier() and shipped.is_file() else place)
        program = snapshot.require()
        module = module_for(snapshot)
        cls = class_in(module, snapshot.path, name, place)
    except LookupError as error:
        raise TargetProblem(str(error)) from None
    (declared,) = (each for each in program.declarations if each.name == cls.__name__)
    if not isinstance(declared, ir.Optimizer):
        raise TargetProblem(f"{label}: {declared.name} is a {type(declared).__name__.lower()}, not an optimizer")
    return ComparedTarget(label, declared.name, partial(make_generated, cls, dict(options)), declared, states)


def make_generated(cls: Callable[..., Optimizer], options: Mapping[str, Any], parameter: Parameter) -> Optimizer:
    """The generated class, with the parameter as a hidden matrix."""
    return cls([{"params": [parameter], "rule": "matrix"}], **options)


# Classes


def class_target(
    label: str, module: str, name: str, options: Mapping[str, Any], states: Mapping[str, str]
) -> ComparedTarget:
    """A class or function of a module, called as torch's optimizers are: ``Class([parameter], **options)``."""
    found = getattr(imported(module, label), name, None)
    if not callable(found):
        raise TargetProblem(f"{label}: {module} has no class `{name}`")
    return ComparedTarget(label, name, partial(make_other, found, dict(options)), states=states)


def make_other(factory: Callable[..., Optimizer], options: Mapping[str, Any], parameter: Parameter) -> Optimizer:
    return factory([parameter], **options)


def imported(module: str, label: str) -> Any:
    """The module; one that stands in the working directory is found as `python -m` would find it."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return import_module(module)
    except (ImportError, ValueError) as error:
        raise TargetProblem(f"{label}: {error}") from None
    finally:
        sys.path.remove(folder)
