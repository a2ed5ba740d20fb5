"""What is compared: how an optimizer is named, built, and scheduled, and the settings tuned for the demo.

In: an ``OptimizerConfig``, whose name is a generated class (``NAMO``), a spec compiled on the fly (``path/mine.opt``,
``Muon |> Grokfast(alpha=0.95)``),
``torch.optim.SGD``, or any ``module:Class``. Out: an optimizer and its learning-rate schedule. A wrong name or setting
is an ``OptimizerError``. No training here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import optforge
from examples.gpt2.config import OptimizerConfig, ScheduleConfig


class OptimizerError(Exception):
    """An optimizer, schedule or setting that cannot be used; the message is one sentence."""


TUNED = {
    config.name: config
    for config in (
        OptimizerConfig("NAMO", lr=0.2, rest_lr=3e-3),
        OptimizerConfig("NAMOD", lr=0.2, rest_lr=3e-3),
        OptimizerConfig("Muon", lr=0.03, rest_lr=3e-3),
        OptimizerConfig("AdamW", lr=2e-3, options={"beta2": 0.95, "weight_decay": 0.1}),
        OptimizerConfig("torch.optim.AdamW", lr=2e-3, options={"betas": (0.9, 0.95), "weight_decay": 0.1}),
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
    "cosine-to-tenth": lambda progress: 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}
"""After the warm-up: the factor on the learning rate at a progress from 0 to 1."""


def tuned_config(name: str) -> OptimizerConfig:
    """The tuned settings for ``name``: a spec file gets those of the class that it compiles to, others their own lr."""
    if name in TUNED:
        return TUNED[name]
    optimizer_class = find_class(name)
    lr = getattr(inspect.signature(optimizer_class).parameters.get("lr"), "default", None)
    own = OptimizerConfig(name, lr=float(lr) if isinstance(lr, int | float) else None)
    return own if ":" in name else replace(TUNED.get(optimizer_class.__name__, own), name=name)


def override(config: OptimizerConfig, setting: str, value: Any) -> OptimizerConfig:
    """``config`` with one setting changed: a rate, ``schedule`` (its shape), or a keyword argument of the optimizer."""
    if setting in ("lr", "rest_lr"):
        return replace(config, **{setting: value})
    if setting == "schedule":
        return replace(config, schedule=replace(config.schedule, shape=value))
    return replace(config, options={**config.options, setting: value})


def find_class(name: str) -> type[Optimizer]:
    """The class called ``name``: of a module, of ``optforge.generated``, or compiled from a spec file."""
    if name.endswith(".opt") or "|>" in name:
        return _compile(name, Optimizer)
    module, _, own = name.rpartition(":")
    if module:
        return _attribute(_imported(module), own, Optimizer)
    if name.startswith("torch.optim."):
        return _attribute(torch.optim, name.removeprefix("torch.optim."), Optimizer)
    return _attribute(_generated(), name, Optimizer)


def find_schedule(name: str) -> type[LRScheduler]:
    """The schedule called ``name``: of ``optforge.generated``, or compiled from a spec file."""
    return _compile(name, LRScheduler) if name.endswith(".opt") else _attribute(_generated(), name, LRScheduler)


def find_spec_text(config: OptimizerConfig) -> str | None:
    """The text of the specs that the optimizer and its schedule are compiled from; None if neither has one."""
    shape = config.schedule.shape
    classes = {config.name: find_class(config.name)} | ({} if shape in DECAYS else {shape: find_schedule(shape)})
    texts = [text for name, found in classes.items() if (text := _spec_text(name, found)) is not None]
    return "\n".join(texts) or None


def _spec_text(name: str, found: type) -> str | None:
    if "|>" in name:
        return f"optimizer {found.__name__} = {name}\n"
    if name.endswith(".opt"):
        return Path(name).read_text(encoding="utf-8")
    package, _, module = found.__module__.rpartition(".")
    spec = resources.files(optforge) / "specs" / f"{module}.opt"
    return spec.read_text(encoding="utf-8") if package == _generated().__name__ and spec.is_file() else None


def is_generated(optimizer_class: type[Optimizer]) -> bool:
    """Whether the class was compiled from a spec: then it routes a model's parameters to rules by itself."""
    return bool(getattr(optimizer_class, "RULES", None))


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer of ``config`` over ``model``; generated classes route the model's parameters by their role."""
    optimizer_class = find_class(config.name)
    target: Any = model if is_generated(optimizer_class) else model.parameters()
    if config.rest_lr is not None:
        target = split_rates(model, config.rest_lr)
    rate = {} if config.lr is None else {"lr": config.lr}
    try:
        return optimizer_class(target, **rate, **config.options)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise OptimizerError(f"{config.name}: {error}") from error


def split_rates(model: nn.Module, rest_lr: float) -> list[dict[str, Any]]:
    """Parameter groups by role, hidden matrices first; all other groups learn at ``rest_lr``."""
    groups = optforge.param_groups(model)
    hidden = [group for group in groups if group["rule"] in HIDDEN_ROLES]
    return hidden + [{**group, "lr": rest_lr} for group in groups if group["rule"] not in HIDDEN_ROLES]


def build_schedule(schedule: ScheduleConfig, optimizer: Optimizer, *, steps: int) -> LRScheduler:
    """The learning-rate schedule for a run of ``steps`` steps; call its ``step()`` after each optimizer step."""
    warmup = min(round(schedule.warmup * steps), steps - 1)
    if schedule.shape not in DECAYS:
        schedule_class = find_schedule(schedule.shape)
        known = inspect.signature(schedule_class).parameters
        hypers = {name: value for name, value in {"total": steps, "warmup": warmup}.items() if name in known}
        try:
            return schedule_class(optimizer, **hypers)
        except (TypeError, ValueError) as error:
            raise OptimizerError(f"schedule {schedule.shape}: {error}") from error
    decay = DECAYS[schedule.shape]

    def factor(finished: int) -> float:
        if finished < warmup:
            return (finished + 1) / warmup
        return decay(min((finished - warmup) / (steps - warmup), 1.0))

    return LambdaLR(optimizer, factor)


def _generated() -> ModuleType:
    return importlib.import_module("optforge.generated")


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptimizerError(f"{module} cannot be imported: {error}") from error


def _compile(path: str, kind: type) -> type:
    try:
        found = optforge.load(path)
    except (optforge.SpecError, LookupError, OSError) as error:
        raise OptimizerError(str(error)) from error
    if not _is_proper(found, kind):
        raise OptimizerError(f"{path} defines {found.__name__}, which is no {kind.__name__}")
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
