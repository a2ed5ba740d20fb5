"""Lightning with a generated optimizer: ``python -m examples.ecosystem.lightning_loop``.

``configure_optimizers`` makes the optimizer from the module itself, so that every parameter gets the rule of its role,
and the schedule moves at every step. Lightning's automatic optimization passes the optimizer a closure.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from examples.ecosystem.problem import BATCH, CLIP, STEPS, make_model, make_rows, report
from examples.gpt2.model import GPT
from optforge.generated import NAMO, UBA


class Training(lightning.LightningModule):
    """A GPT and how it is trained; ``losses`` are those of the steps so far."""

    def __init__(self, model: GPT, optimizer: partial[Optimizer], schedule: partial[LRScheduler]) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """The loss of one batch of rows."""
        loss = self.model.loss(batch[:, :-1], batch[:, 1:])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over all parameters, and its schedule, which counts steps."""
        optimizer = self.optimizer(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}


def train(
    model: GPT, optimizer: partial[Optimizer], schedule: partial[LRScheduler], rows: Tensor, **options: Any
) -> list[float]:
    """Train once over ``rows`` in their order; ``options`` are the Trainer's. Returns the loss of each step."""
    training = Training(model, optimizer, schedule)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=CLIP,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(training, DataLoader(rows, batch_size=BATCH))
    return training.losses


def main() -> None:
    """Train and print the loss."""
    report(train(make_model(), partial(NAMO, lr=2e-2), partial(UBA, total=STEPS, warmup=5), make_rows()))


if __name__ == "__main__":
    main()
