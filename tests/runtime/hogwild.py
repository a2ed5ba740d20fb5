"""What a process does that trains shared weights without locks; for `test_long_run`, which starts several."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

import optforge.generated

TARGET = torch.linspace(-1, 1, 12).view(4, 3)
STEPS = 400
SECONDS = 60  # after which a process gives up that sees nothing


def train(weights: list[Tensor], seen: Tensor, ready: Any, rank: int, name: str) -> None:
    """Brings the weights, which are in shared memory, near to TARGET; the optimizer and its state are its own.

    Counts in `seen[rank]` how often another process had written to a weight since the last step, and goes on until each
    process has seen some of that: on a busy machine one may be through before the other comes to its second step.
    """
    torch.set_num_threads(1)
    params = [nn.Parameter(weight) for weight in weights]
    optimizer = getattr(optforge.generated, name)(params, lr=0.02)
    generator = torch.Generator().manual_seed(rank)
    left = [p.detach().clone() for p in params]
    ready.wait(200)
    end = time.monotonic() + SECONDS
    for step in count():
        if step >= STEPS and ((seen > 0).all() or time.monotonic() > end):
            break
        seen[rank] += any(not torch.equal(p, old) for p, old in zip(params, left, strict=True))
        for p in params:
            noise = torch.randn(p.shape, generator=generator)
            p.grad = p.detach() - TARGET.view(p.shape) + 0.01 * noise
        optimizer.step()
        left = [p.detach().clone() for p in params]
    assert all(p.data_ptr() == weight.data_ptr() for p, weight in zip(params, weights, strict=True))
