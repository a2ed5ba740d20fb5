"""The optimizers of torch.optim as specs, each against torch's own in float64, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import optforge.generated as generated

STEPS = 25
SHAPES = ((4, 7), (7, 4), (4, 7), (5,), (1, 5), (3, 1), (2, 3, 4))
LIMIT = 1e-10


@dataclass(frozen=True)
class Pair:
    """One of ours with its hypers, and torch's with the same values under torch's names.

    ``limit`` is larger where torch rounds a scalar of its state to float32, in the middle of float64.
    """

    ours: str
    torchs: type[torch.optim.Optimizer]
    hypers: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    limit: float = LIMIT
    moving_lr: bool = True


DECAYED = {"weight_decay": 0.1}
# torch keeps NAdam's product of momenta and ASGD's step size as float32 tensors: 2^-24 is 6e-8, and it accumulates.
FLOAT32 = 1e-5
# torch computes ASGD's step size at the end of the step before, so that a change of lr acts one step late.
ASGD = {"limit": FLOAT32, "moving_lr": False}

PAIRS = (
    Pair("Adam", torch.optim.Adam),
    Pair(
        "Adam", torch.optim.Adam,
        {**DECAYED, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}, {**DECAYED, "betas": (0.8, 0.95), "eps": 1e-3},
    ),
    Pair("AMSGrad", torch.optim.Adam, {}, {"amsgrad": True}),
    Pair("AMSGrad", torch.optim.Adam, {"beta2": 0.9, **DECAYED}, {"betas": (0.9, 0.9), "amsgrad": True, **DECAYED}),
    Pair("Adamax", torch.optim.Adamax),
    Pair("Adamax", torch.optim.Adamax, {"beta2": 0.9, **DECAYED}, {"betas": (0.9, 0.9), **DECAYED}),
    Pair("NAdam", torch.optim.NAdam, limit=FLOAT32),
    Pair("NAdam", torch.optim.NAdam, {"momentum_decay": 0.1, **DECAYED}, {"momentum_decay": 0.1, **DECAYED}, FLOAT32),
    Pair("RAdam", torch.optim.RAdam),
    Pair("RAdam", torch.optim.RAdam, {"beta2": 0.9, **DECAYED}, {"betas": (0.9, 0.9), **DECAYED}),
    Pair("RMSprop", torch.optim.RMSprop),
    Pair(
        "RMSprop", torch.optim.RMSprop,
        {"momentum": 0.9, "centered": True, **DECAYED}, {"momentum": 0.9, "centered": True, **DECAYED},
    ),
    Pair("Rprop", torch.optim.Rprop),
    Pair(
        "Rprop", torch.optim.Rprop,
        {"shrink": 0.3, "grow": 1.5, "least": 1e-3, "most": 0.02}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.02)},
    ),
    Pair("Adagrad", torch.optim.Adagrad),
    Pair(
        "Adagrad", torch.optim.Adagrad,
        {"lr_decay": 0.1, "initial": 0.5, **DECAYED},
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5, **DECAYED},
    ),
    Pair("Adadelta", torch.optim.Adadelta),
    Pair("Adadelta", torch.optim.Adadelta, {"rho": 0.5, **DECAYED}, {"rho": 0.5, **DECAYED}),
    Pair("ASGD", torch.optim.ASGD, **ASGD),
    Pair("ASGD", torch.optim.ASGD, {"t0": 3, "lambd": 0.1, **DECAYED}, {"t0": 3, "lambd": 0.1, **DECAYED}, **ASGD),
    Pair("Adafactor", torch.optim.Adafactor, {}, {"eps": (1e-30, 1e-3)}),
    Pair(
        "Adafactor", torch.optim.Adafactor,
        {"clip": 1.5, "beta2_decay": -0.5, **DECAYED}, {"eps": (1e-30, 1e-3), "d": 1.5, "beta2_decay": -0.5, **DECAYED},
    ),
)  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.ours}-{len(pair.hypers)}")
def test_every_step_is_torchs(pair: Pair) -> None:
    generator = torch.Generator().manual_seed(len(pair.ours))
    shapes = [shape for shape in SHAPES if pair.ours != "Adafactor" or len(shape) < 3]
    start = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    one = getattr(generated, pair.ours)(ours, **pair.hypers)
    other = pair.torchs(theirs, **pair.options)
    for step in range(STEPS):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, dtype=torch.float64, generator=generator)
            q.grad = p.grad.clone()
        for optimizer in (one, other) if pair.moving_lr else ():
            optimizer.param_groups[0]["lr"] *= 0.98
        before = [q.detach().clone() for q in theirs]
        one.step()
        other.step()
        for p, q, old in zip(ours, theirs, before, strict=True):
            size = (q - old).norm()
            assert (p - q).norm() <= pair.limit * size, f"step {step}, shape {tuple(p.shape)}"
    assert all((p - q).norm() > 1e-5 * q.norm() for p, q in zip(ours, start, strict=True))


def test_the_average_of_asgd_can_be_shown_and_put_away() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    ours = generated.ASGD([p], t0=2, lr=0.1)
    theirs = torch.optim.ASGD([q], t0=2, lr=0.1)
    for step in range(9):
        p.grad = torch.full_like(p, 0.1 * step)
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    current = p.detach().clone()
    ours.show_average()
    assert torch.allclose(p, theirs.state[q]["ax"], rtol=1e-6)
    assert not torch.equal(p, current)
    ours.show_current()
    assert torch.equal(p, current)
