"""Plain torch in mixed precision with a generated optimizer: ``python -m examples.ecosystem.amp``.

Weights and steps are float32, the forward and backward passes float16. ``GradScaler`` multiplies the loss so that
small gradients do not vanish, divides the gradients again, and leaves a step out if one of them became infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from examples.ecosystem.problem import BATCH, CLIP, make_model, make_rows, report
from examples.gpt2.model import GPT
from optforge.generated import NAMO


def train(model: GPT, optimizer: Optimizer, scaler: torch.amp.GradScaler, rows: Tensor) -> list[float]:
    """Train once over ``rows`` in their order, where the model is; returns the loss of each step."""
    device = model.tokens.weight.device
    losses = []
    for batch in rows.to(device).split(BATCH):
        with torch.autocast(device.type, torch.float16):
            loss = model.loss(batch[:, :-1], batch[:, 1:])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train on a GPU if there is one, and print the loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model().to(device)
    report(train(model, NAMO(model, lr=2e-2), torch.amp.GradScaler(device), make_rows()))


if __name__ == "__main__":
    main()
