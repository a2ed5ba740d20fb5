"""The other implementation of each shipped optimizer, for the mutation campaign: a reference, or torch's own.

References are found in a folder of a source checkout (`tests/references`), by the names of the optimizers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from optforge.compiler.verify.differential.setup import Options

# torch keeps a product of momenta (NAdam) and a step size (ASGD) as float32, whatever the parameter is.
FLOAT32 = 1e-5
# No reference takes a closure.
REFERENCE = Options(role_key="role", without=("closure",))
# Below a decay of 0.5 torch's lerp gives NaN for an infinite gradient, where `decay * m + (1 - decay) * g` of these
# references is infinite: either loses the weight, but the norm of a row spreads NaN over the whole row.
FINITE = Options(role_key="role", without=("closure", "inf"))
SPELLED_OUT = ("RMNP",)


@dataclass(frozen=True)
class Counterpart:
    """``module`` is where the source of a reference stands; None for torch's, which is not mutated."""

    factory: Callable[..., Any]
    options: Options
    module: str | None = None


def amsgrad(
    params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0
) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr, betas, eps, weight_decay, amsgrad=True)


def adafactor(
    params: Any,
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float, float] = (1e-30, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0,
) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(params, lr, beta2_decay, eps, d, weight_decay)


# What is left out: torch makes states for a changed momentum only at the first step, starts Adagrad's sums when the
# optimizer is made, lets a change of lr act one step late in ASGD, and does not propagate infinities in Adafactor. With
# alpha = 0 the centered RMSprop divides by the root of v - mean^2 = 0, which a fused multiplication makes negative. The
# smallest variance of Adafactor is no float32 number: a row of zeros becomes NaN there.
TORCH: Mapping[str, Counterpart] = {
    "Adam": Counterpart(torch.optim.Adam, Options()),
    "AMSGrad": Counterpart(amsgrad, Options()),
    "Adamax": Counterpart(torch.optim.Adamax, Options()),
    "NAdam": Counterpart(torch.optim.NAdam, Options(tolerance=FLOAT32)),
    "RAdam": Counterpart(torch.optim.RAdam, Options()),
    "RMSprop": Counterpart(torch.optim.RMSprop, Options(fixed={"alpha": 0.9}, without=("changes",))),
    "Rprop": Counterpart(torch.optim.Rprop, Options()),
    "Adagrad": Counterpart(torch.optim.Adagrad, Options(groups=1, without=("changes",))),
    "Adadelta": Counterpart(torch.optim.Adadelta, Options()),
    "ASGD": Counterpart(torch.optim.ASGD, Options(tolerance=FLOAT32, without=("changes", "lr_changes"))),
    "Adafactor": Counterpart(
        adafactor,
        Options(names={"least": "eps[0]", "eps": "eps[1]"}, rest=True, dtypes=("float64",), without=("inf", "nan")),
    ),
}


def find_counterparts(folder: Path) -> dict[str, Counterpart]:
    """A counterpart for each name, references before torch's."""
    folder = folder.resolve()
    sys.path.insert(0, str(folder.parents[1]))
    package = import_module(f"{folder.parent.name}.{folder.name}")
    found = dict(TORCH)
    for name, cls in package.REFERENCES.items():
        found[name] = Counterpart(cls, FINITE if name in SPELLED_OUT else REFERENCE, cls.__module__)
    return found
