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
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import optforge
from examples.gpt2.model import GPT


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
    """One optimizer of the comparison: its name, peak learning rate (None: its own default), and keyword arguments."""

    name: str
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = Schedule()


TUNED = {
    recipe.name: recipe
    for recipe in (
        Recipe("NAMO", lr=2e-2),
        Recipe("NAMOD", lr=2e-2),
        Recipe("Muon", lr=2e-2, options={"rest_lr": 3e-3}),
        Recipe("AdamW", lr=3e-3, options={"beta2": 0.95, "weight_decay": 0.1}),
        Recipe("torch.optim.AdamW", lr=3e-3, options={"betas": (0.9, 0.95), "weight_decay": 0.1}),
    )
}
"""Settings tuned for the default model, batch and number of steps; anything else starts from its own defaults."""

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
    """``recipe`` with one setting changed: ``lr``, ``schedule`` (its shape), or a keyword argument of the optimizer."""
    if setting == "lr":
        return replace(recipe, lr=value)
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


def build_optimizer(recipe: Recipe, model: GPT) -> Optimizer:
    """The optimizer of ``recipe`` over ``model``; generated classes route the model's parameters by their role.

    ``rest_lr`` is understood for every generated class: one that has no such hyperparameter gets two parameter groups.
    """
    optimizer_class, options = find_class(recipe.name), dict(recipe.options)
    target: Any = model
    if recipe.name.startswith("torch.optim."):
        target = model.parameters()
    elif "rest_lr" in options and "rest_lr" not in inspect.signature(optimizer_class).parameters:
        target = split_by_role(model, rest_lr=options.pop("rest_lr"))
    if recipe.lr is not None:
        options["lr"] = recipe.lr
    try:
        return optimizer_class(target, **options)
    except (TypeError, ValueError) as error:
        raise OptimizerError(f"{recipe.name}: {error}") from error


def split_by_role(model: GPT, *, rest_lr: float) -> list[dict[str, Any]]:
    """Two parameter groups: the hidden matrices, and the rest with its own learning rate."""
    matrices = model.hidden_matrices()
    taken = set(map(id, matrices))
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return [{"params": matrices, "rule": "matrix"}, {"params": rest, "rule": "rest", "lr": rest_lr}]


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

    return EveryRateLR(optimizer, factor)


class EveryRateLR(LambdaLR):
    """``LambdaLR`` that also scales a group's further learning rates, such as the ``rest_lr`` of a matrix optimizer.

    torch's schedulers move ``lr`` alone, which would leave the embeddings at full speed without warm-up or decay.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self._further = [
            (group, key, group[key])
            for group in optimizer.param_groups
            for key in group
            if key.endswith("_lr") and key != "initial_lr"
        ]
        super().__init__(optimizer, factor)

    def step(self, epoch: int | None = None) -> None:
        """Move on by one step and set every rate of every group."""
        super().step(epoch)
        for group, key, base in self._further:
            group[key] = base * self.lr_lambdas[0](self.last_epoch)


def _generated() -> ModuleType:
    return importlib.import_module("optforge.generated")


def _compile(path: str) -> type[Optimizer]:
    try:
        return optforge.load(path)
    except (OSError, ValueError) as error:
        raise OptimizerError(f"{path}: {error}") from error


def _attribute(module: ModuleType, name: str, kind: type) -> type:
    """The class ``name`` of ``module`` if it is a proper subclass of ``kind``; else an error with the nearest name."""
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, kind) and found is not kind:
        return found
    known = [other for other in dir(module) if _is_proper(getattr(module, other, None), kind)]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known) or 'none'}"
    raise OptimizerError(f"{module.__name__} has no {kind.__name__} named {name}; {hint}")


def _is_proper(found: object, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind) and found is not kind
