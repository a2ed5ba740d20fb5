"""``accelerate`` and averages of weights: ``python -m examples.ecosystem.schedule_free_accelerate``.

A Schedule-Free method trains weights other than those that are meant for use. The prepared optimizer hands
``eval()`` and ``train()`` on to ours, so that they stand beside those of the model. What is saved in between are the
averaged weights.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from examples.ecosystem.problem import BATCH, CLIP, STEPS, make_held_out, make_model, make_rows, report, report_averages
from examples.gpt2.model import GPT
from optforge.generated import ScheduleFreeAdamW

EVERY = 4
"""Evaluations while training."""


def train(
    model: GPT, optimizer: Optimizer, rows: Tensor, held_out: Tensor, *, steps: int = STEPS
) -> tuple[list[float], list[float]]:
    """Train once over ``rows`` in their order; returns the losses of steps, and those of evaluations."""
    accelerator = Accelerator(cpu=True)
    loaders = [DataLoader(each, batch_size=BATCH) for each in (rows, held_out)]
    prepared, optimizer, *loaders = accelerator.prepare(model, optimizer, *loaders)

    def loss_of(batch: Tensor) -> Tensor:
        return cross_entropy(prepared(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def evaluate() -> float:
        prepared.eval()
        optimizer.eval()
        found = [accelerator.gather(loss_of(batch)).mean().item() for batch in loaders[1]]
        return sum(found) / len(found)

    losses, evaluations = [], [evaluate()]
    for count, batch in enumerate(loaders[0], 1):
        prepared.train()
        optimizer.train()
        loss = loss_of(batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if count % (steps // EVERY) == 0:
            evaluations.append(evaluate())
    return losses, evaluations


def main() -> None:
    """Train, and print the losses of steps and evaluations."""
    model = make_model()
    losses, evaluations = train(model, ScheduleFreeAdamW(model, lr=2e-2, warmup=5), make_rows(), make_held_out())
    report(losses)
    report_averages(evaluations)


if __name__ == "__main__":
    main()
