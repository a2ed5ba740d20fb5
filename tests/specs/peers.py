"""How classes of published packages are made and run beside specs.

In: targets as on the command line of `optforge compare`. Out: rows of a comparison in float64. What packages keep in
scalars of torch's default dtype is float64 as well here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from optforge.compiler.load import compile_source
from optforge.compiler.verify.comparison.compare import Row, compare
from optforge.compiler.verify.comparison.targets import (
    ComparedTarget,
    make_generated,
    make_other,
    parse_options,
    parse_target,
)
from optforge.compiler.verify.comparison.trials import make_trials

PACKAGES = ("pytorch_optimizer", "heavyball", "schedulefree")
WANT_ROLES = ("Muon", "NorMuon", "AdaMuon")  # classes of pytorch_optimizer
WANT_A_BASE = ("SAM",)
ITERATE = ("muon.base", "muon.normuon", "muon.adamuon", "scion")  # modules that import pytorch_optimizer's iteration


@dataclass(frozen=True)
class Peer:
    """A shipped optimizer and a published one that take the same steps; ``options`` are of ours."""

    name: str
    theirs: str
    options: str = ""

    @property
    def ours(self) -> str:
        return f"{self.name}?{self.options}" if self.options else self.name


def their_target(text: str) -> ComparedTarget:
    """A class of a package, made as its documentation asks."""
    target = parse_target(text)
    place, _, options = text.partition("?")
    if place.startswith("heavyball:"):
        import_module("heavyball").utils.compile_mode = None  # compiled or not, the steps are the same
    if not place.startswith("pytorch_optimizer:"):
        return target
    cls, given = getattr(import_module("pytorch_optimizer"), target.name), parse_options(options, text)
    if target.name in WANT_ROLES:
        return replace(target, make=partial(made_with_roles, cls, given))
    if target.name in WANT_A_BASE:
        return replace(target, make=partial(make_other, cls, {**given, "base_optimizer": torch.optim.SGD}))
    return target


def made_with_roles(cls: Callable[..., Any], options: dict[str, Any], parameter: torch.nn.Parameter) -> Any:
    return cls([{"params": [parameter], "use_muon": True}], **options)


def variant(ours: str, body: str) -> ComparedTarget:
    """What a spec becomes with other equations in its rule, with the options of ``ours``."""
    name, _, options = ours.partition("?")
    module = compile_source(f"optimizer Theirs extends {name}:\n{body}")
    return ComparedTarget("Theirs", "Theirs", partial(make_generated, module.Theirs, parse_options(options, ours)))


@contextmanager
def all_in_float64() -> Iterator[None]:
    """Scalars of the default dtype, and pytorch_optimizer's Newton-Schulz iteration, in float64."""
    from pytorch_optimizer.optimizer.utils import matrix

    exact = partial(matrix.zero_power_via_newton_schulz_5, dtype=torch.float64)
    with ExitStack() as patches:
        for module in ITERATE:
            place = f"pytorch_optimizer.optimizer.{module}.zero_power_via_newton_schulz_5"
            patches.enter_context(patch(place, exact))
        torch.set_default_dtype(torch.float64)
        patches.callback(torch.set_default_dtype, torch.float32)
        yield


def rows_between(first: ComparedTarget, other: ComparedTarget) -> list[Row]:
    """The other's rows, in float64: one for each shape."""
    rows = compare([first, other], make_trials(dtypes=("float64",)))
    return [row for row in rows if row.target is other]
