"""What is compared: how an optimizer is named, built, and scheduled, and the settings tuned for the demo.

In: a name (``NAMO``: a generated class; ``torch.optim.SGD``; ``path/to/mine.opt``: a spec, compiled on the fly) and
overrides. Out: a ``Recipe``, and from it an optimizer and its learning-rate schedule. A wrong name or setting is an
``OptimizerError``. No training here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import optforge


class OptimizerError(Exception):
    """An optimizer, schedule or setting that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate moves: ``warmup`` is the share of the steps in which it rises to its full value.

    ``shape`` is a key of ``DECAYS`` or the name of a generated schedule class such as ``UBA``.
    """

    shape: str = "cosine"
    warmup: float = 0.1


@dataclass(frozen=True, slots=True)
class Recipe:
    """One optimizer of the comparison: its name, learning rates, further keyword arguments, and schedule.

    ``lr`` is the peak rate (None: the optimizer's own default); ``rest_lr`` that of all but the hidden matrices:
    embeddings, head, norms and biases (None: whatever the optimizer makes of ``lr``).
    """

    name: str
    lr: float | None = None
    rest_lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = Schedule()


TUNED = {
    recipe.name: recipe
    for recipe in (
        Recipe("NAMO", lr=0.2, rest_lr=3e-3),
        Recipe("NAMOD", lr=0.2, rest_lr=3e-3),
        Recipe("Muon", lr=0.03, rest_lr=3e-3),
        Recipe("AdamW", lr=2e-3, options={"beta2": 0.95, "weight_decay": 0.1}),
        Recipe("torch.optim.AdamW", lr=2e-3, options={"betas": (0.9, 0.95), "weight_decay": 0.1}),
    )
}
"""Settings tuned for the default model, batch and number of steps; anything else starts from its own defaults.

NAMO and NAMO-D multiply ``lr`` by the ratio of the momentum's norm to that of the gradient. With a batch as small as
the demo's, noise makes that ratio about 0.15, so their matrices want a rate far above the one that embeddings bear; a
rate shared by both costs about 0.2 nats.
"""

HIDDEN_ROLES = ("matrix", "conv")
"""The roles of what matrix optimizers are made for."""

DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}
"""After the warm-up: the factor on the learning rate at a progress from 0 to 1."""


def find_recipe(name: str) -> Recipe:
    """The tuned settings for ``name``; a spec file gets those of the class that it compiles to."""
    if name in TUNED:
        return TUNED[name]
    optimizer_class = find_class(name)
    if name.startswith("torch.optim."):
        return Recipe(name)
    return replace(TUNED.get(optimizer_class.__name__, Recipe(name)), name=name)


def override(recipe: Recipe, setting: str, value: Any) -> Recipe:
    """``recipe`` with one setting changed: a rate, ``schedule`` (its shape), or a keyword argument of the optimizer."""
    if setting in ("lr", "rest_lr"):
        return replace(recipe, **{setting: value})
    if setting == "schedule":
        return replace(recipe, schedule=replace(recipe.schedule, shape=value))
    return replace(recipe, options={**recipe.options, setting: value})


def find_class(name: str) -> type[Optimizer]:
    """The class called ``name``: of ``torch.optim``, of ``optforge.generated``, or compiled from a spec file."""
    if name.startswith("torch.optim."):
        found = _attribute(torch.optim, name.removeprefix("torch.optim."), Optimizer)
    elif name.endswith(".opt"):
        found = _compile(name)
    else:
        found = _attribute(_generated(), name, Optimizer)
    return found


def build_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The optimizer of ``recipe`` over ``model``; generated classes route the model's parameters by their role."""
    optimizer_class = find_class(recipe.name)
    target: Any = model.parameters() if recipe.name.startswith("torch.optim.") else model
    if recipe.rest_lr is not None:
        target = split_rates(model, optimizer_class, recipe.rest_lr)
    rate = {} if recipe.lr is None else {"lr": recipe.lr}
    try:
        return optimizer_class(target, **rate, **recipe.options)
    except (TypeError, ValueError) as error:
        raise OptimizerError(f"{recipe.name}: {error}") from error


def split_rates(model: nn.Module, optimizer_class: type[Optimizer], rest_lr: float) -> list[dict[str, Any]]:
    """Parameter groups by role, hidden matrices first; all other groups learn at ``rest_lr``."""
    rates = {"lr": rest_lr}
    if "rest_ratio" in inspect.signature(optimizer_class).parameters:
        rates["rest_ratio"] = 1.0  # such a class would multiply the group's rate by it
    groups = optforge.param_groups(model)
    hidden = [group for group in groups if group["rule"] in HIDDEN_ROLES]
    return hidden + [{**group, **rates} for group in groups if group["rule"] not in HIDDEN_ROLES]


def build_schedule(schedule: Schedule, optimizer: Optimizer, *, steps: int) -> LRScheduler:
    """The learning-rate schedule for a run of ``steps`` steps; call its ``step()`` after each optimizer step."""
    warmup = min(round(schedule.warmup * steps), steps - 1)
    if schedule.shape not in DECAYS:
        schedule_class = _attribute(_generated(), schedule.shape, LRScheduler)
        return schedule_class(optimizer, total=steps, warmup=warmup)
    decay = DECAYS[schedule.shape]

    def factor(finished: int) -> float:
        if finished < warmup:
            return (finished + 1) / warmup
        return decay(min((finished - warmup) / (steps - warmup), 1.0))

    return LambdaLR(optimizer, factor)


def _generated() -> ModuleType:
    return importlib.import_module("optforge.generated")


def _compile(path: str) -> type[Optimizer]:
    try:
        found = optforge.load(path)
    except (optforge.SpecError, LookupError, OSError) as error:
        raise OptimizerError(str(error)) from error
    if not _is_proper(found, Optimizer):
        raise OptimizerError(f"{path} defines {found.__name__}, which is no optimizer")
    return found


def _attribute(module: ModuleType, name: str, kind: type) -> type:
    """The class ``name`` of ``module`` if it is a proper subclass of ``kind``; else an error with the nearest name."""
    found = getattr(module, name, None)
    if _is_proper(found, kind):
        return found
    known = [other for other in dir(module) if _is_proper(getattr(module, other, None), kind)]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known) or 'none'}"
    raise OptimizerError(f"{module.__name__} has no {kind.__name__} named {name}; {hint}")


def _is_proper(found: object, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind) and found is not kind
