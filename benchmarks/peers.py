"""Published optimizers in the dtype of iteration that a comparison asks for.

torch, pytorch_optimizer and heavyball iterate Newton-Schulz in bfloat16 whatever the device; on a processor that
multiplies bfloat16 slowly that would measure the processor, not the code. Here their functions run as they are written,
but for the dtype. Nothing is done where a package is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

PACKAGES = ("pytorch_optimizer", "heavyball")
ITERATIONS = ("zero_power_via_newton_schulz_5", "zero_power_via_gram_newton_schulz")
ITERATING_MODULES = ("muon.base", "muon.normuon")  # of pytorch_optimizer; they import the functions by name


def installed(package: str) -> bool:
    return find_spec(package) is not None


def rewritten(module: ModuleType, name: str, before: str, after: str) -> Callable[..., Any]:
    """The module's function with one expression replaced; RuntimeError unless it occurs exactly once.

    `after` may only use names of the module: torch.compile looks for globals there.
    """
    function = inspect.unwrap(getattr(module, name))
    source = inspect.getsource(function)
    if source.count(before) != 1:
        raise RuntimeError(f"{module.__name__}.{name} no longer has {before!r} once; its dtype cannot be replaced")
    namespace = dict(vars(module))
    exec(compile(source.replace(before, after), f"<{module.__name__}.{name}>", "exec"), namespace)
    found: Callable[..., Any] = namespace[name]
    return found


@contextmanager
def iterating_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Within this context the peers' iterations run in `dtype`; None leaves them as published."""
    with ExitStack() as patches:
        for place, name, function in _replacements(dtype) if dtype else ():
            patches.enter_context(patch.object(place, name, function))
        yield


def _replacements(dtype: torch.dtype) -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
    muon, name = import_module("torch.optim._muon"), "_zeropower_via_newtonschulz"
    # A copy, as bfloat16() makes one: what follows divides in place.
    yield muon, name, rewritten(muon, name, "grad.bfloat16()", f"grad.to({dtype}, copy=True)")
    if installed("pytorch_optimizer"):
        for module in ITERATING_MODULES:
            place = import_module(f"pytorch_optimizer.optimizer.{module}")
            for name in ITERATIONS:
                if hasattr(place, name):
                    yield place, name, partial(getattr(place, name), dtype=dtype)
    if installed("heavyball"):
        utils, name = import_module("heavyball.utils"), "zeropower_via_newtonschulz5"
        before = "G if G.dtype == torch.float64 else stochastic_round_(G)"
        yield utils, name, rewritten(utils, name, before, f"G.to({dtype})")


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within this context heavyball runs eagerly: the steps are the same."""
    with ExitStack() as patches:
        if installed("heavyball"):
            patches.enter_context(patch.object(import_module("heavyball.utils"), "compile_mode", None))
        yield
