"""Lightning and averages of weights: ``python -m examples.ecosystem.schedule_free_lightning``.

A Schedule-Free method trains weights other than those that are meant for use. Lightning knows no modes of optimizers,
so a callback of a few lines enters them. What ``ModelCheckpoint`` saves after a validation are the averaged weights,
and the optimizer's state says so: a run goes on from there, and the callback brings the others back before a batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from examples.ecosystem.lightning_loop import Training
from examples.ecosystem.problem import BATCH, CLIP, STEPS, make_held_out, make_model, make_rows, report, report_averages
from examples.gpt2.model import GPT
from optforge.generated import Constant, ScheduleFreeAdamW

EVERY = 4
"""Evaluations while training."""


class Modes(lightning.Callback):
    """Optimizers show what is to be evaluated while there is an evaluation, and what is trained while there is none."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.train()

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.eval()

    on_test_start = on_predict_start = on_validation_start


class Evaluated(Training):
    """A training with evaluations, whose losses are in ``evaluations``."""

    def __init__(self, model: GPT, optimizer: partial[Optimizer]) -> None:
        super().__init__(model, optimizer, partial(Constant))
        self.evaluations: list[float] = []

    def validation_step(self, batch: Tensor, index: int) -> None:
        """Lightning takes the mean over all batches."""
        self.log("held_out", self.model.loss(batch[:, :-1], batch[:, 1:]))

    def on_validation_epoch_end(self) -> None:
        self.evaluations.append(self.trainer.callback_metrics["held_out"].item())


def train(
    model: GPT, optimizer: partial[Optimizer], rows: Tensor, held_out: Tensor, *, steps: int = STEPS, **options: Any
) -> tuple[list[float], list[float]]:
    """Train once over ``rows``; ``options`` are the Trainer's. Returns the losses of steps and evaluations."""
    training = Evaluated(model, optimizer)
    defaults = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=CLIP,
        callbacks=[Modes()],
        num_sanity_val_steps=-1,  # all of it, once before the first step
        val_check_interval=steps // EVERY,
        **(defaults | options),
    )
    trainer.fit(training, *(DataLoader(each, batch_size=BATCH) for each in (rows, held_out)))
    return training.losses, training.evaluations


def main() -> None:
    """Train, and print the losses of steps and evaluations."""
    optimizer = partial(ScheduleFreeAdamW, lr=2e-2, warmup=5)
    losses, evaluations = train(make_model(), optimizer, make_rows(), make_held_out())
    report(losses)
    report_averages(evaluations)


if __name__ == "__main__":
    main()
