"""What events of references are given in the tests: functions of the network and the step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of the blocks that are matrices or convolutions, but for one that is never given anything."""
    named = dict(model.named_parameters())
    return {name: p for name, p in named.items() if name.startswith("blocks.") and p.ndim > 1 and "3" not in name}


def second_moments(model: nn.Module, step: int) -> dict[Tensor, Tensor]:
    """Z Z' / N of random inputs; of one layer fewer inputs than it has columns."""
    generator = torch.Generator().manual_seed(500 + step)
    found = {}
    for p in matrices(model).values():
        inputs = torch.randn(7, p[0].numel(), generator=generator, dtype=torch.float32).to(p.dtype)
        found[p] = inputs.T @ inputs / len(inputs)
    return found


def largest_logits(model: nn.Module, step: int) -> dict[Tensor, Tensor]:
    """For each row 0, or some logit, of which about half are larger than 100."""
    generator = torch.Generator().manual_seed(700 + step)
    found = {}
    for p in matrices(model).values():
        drawn = torch.rand(len(p), 1, generator=generator, dtype=torch.float32) * 200
        found[p] = (drawn * (drawn > 40)).to(p.dtype)
    return found
