"""What every example trains: a tiny GPT-2 on rows of tokens that can be learned in seconds.

In: nothing. Out: a model, and rows in which each token follows from the one before, but for one in ten. No optimizer
and no loop here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.gpt2.config import ModelConfig
from examples.gpt2.model import GPT, build_model

SHAPE = ModelConfig(vocab_size=64, context=32, layers=2, width=32, heads=2)
BATCH = 16
STEPS = 60
CLIP = 1.0
"""Bound on the norm of the whole gradient."""


def make_model() -> GPT:
    """The model, with the same weights each time."""
    return build_model(SHAPE, seed=0)


def make_rows(steps: int = STEPS, seed: int = 0) -> Tensor:
    """``steps`` batches of rows, one token longer than the context so that every input has a target."""
    generator = torch.Generator().manual_seed(seed)
    count, length = steps * BATCH, SHAPE.context + 1
    noise = torch.randint(SHAPE.vocab_size, (length, count), generator=generator)
    is_noise = torch.rand(length, count, generator=generator) < 0.1
    tokens = [noise[0]]
    for place in range(1, length):
        tokens.append(torch.where(is_noise[place], noise[place], (5 * tokens[-1] + 1) % SHAPE.vocab_size))
    return torch.stack(tokens, dim=1)


def make_held_out() -> Tensor:
    """Four batches of other rows, for evaluation."""
    return make_rows(4, seed=1)


def report(losses: Sequence[float]) -> None:
    """Print where training began and ended."""
    print(f"loss {losses[0]:.3f} at the first of {len(losses)} steps, {losses[-1]:.3f} at the last")


def report_averages(held_out: Sequence[float]) -> None:
    """Print what evaluations of the averaged weights have found."""
    print("held out, with averaged weights: loss " + ", ".join(f"{loss:.3f}" for loss in held_out))
