"""A whole training step under ``torch.compile`` with a generated optimizer: ``python -m examples.ecosystem.compiled``.

The forward and backward passes become graphs. The optimizer's step is not traced into them, since it decides by
itself what it compiles: small models like this one run faster as they are, and ``backend="compile"`` compiles all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from examples.ecosystem.problem import BATCH, CLIP, make_model, make_rows, report
from examples.gpt2.model import GPT
from optforge.generated import NAMO


def train(model: GPT, optimizer: Optimizer, rows: Tensor, *, backend: str = "inductor") -> list[float]:
    """Train once over ``rows`` in their order; ``backend`` is torch.compile's. Returns the loss of each step."""

    @torch.compile(backend=backend)
    def take_step(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = model.loss(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return [take_step(batch[:, :-1], batch[:, 1:]).item() for batch in rows.split(BATCH)]


def main() -> None:
    """Train and print the loss."""
    model = make_model()
    report(train(model, NAMO(model, lr=2e-2, backend="compile"), make_rows()))


if __name__ == "__main__":
    main()
