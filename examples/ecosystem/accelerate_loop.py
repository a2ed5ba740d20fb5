"""Hugging Face ``accelerate`` with a generated optimizer: ``python -m examples.ecosystem.accelerate_loop``.

The loop accumulates the gradients of two batches. The optimizer is made from the model before either is prepared;
``accelerate launch`` runs the same file in several processes.
"""

from __future__ import annotations

from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from examples.ecosystem.problem import BATCH, CLIP, STEPS, make_model, make_rows, report
from examples.gpt2.model import GPT
from optforge.generated import NAMO, UBA

ACCUMULATE = 2
"""How many batches one step of the optimizer sees."""


def train(model: GPT, optimizer: Optimizer, schedule: LRScheduler, rows: Tensor) -> list[float]:
    """Train once over ``rows`` in their order; returns the loss of each batch."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    loader = DataLoader(rows, batch_size=BATCH)
    prepared, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    losses = []
    for batch in loader:
        with accelerator.accumulate(prepared):
            logits = prepared(batch[:, :-1])
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(prepared.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train and print the loss."""
    model = make_model()
    optimizer = NAMO(model, lr=2e-2)
    report(train(model, optimizer, UBA(optimizer, total=STEPS // ACCUMULATE, warmup=5), make_rows()))


if __name__ == "__main__":
    main()
