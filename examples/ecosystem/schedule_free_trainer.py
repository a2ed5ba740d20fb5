"""Hugging Face ``Trainer`` evaluates averages of weights: ``python -m examples.ecosystem.schedule_free_trainer``.

A Schedule-Free method trains weights other than those that are meant for use. The Trainer calls ``optimizer.eval()``
before it evaluates and ``optimizer.train()`` before each batch, by these names, so nothing has to be done for it. What
it saves right after an evaluation are the averaged weights, and the optimizer's state says so; without an evaluation it
saves those that are trained, hence the ``optimizer.eval()`` before ``save_model`` at the end.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GPT2LMHeadModel

from examples.ecosystem.problem import STEPS, make_held_out, make_rows, report, report_averages
from examples.ecosystem.trainer import make_gpt2, make_trainer
from optforge.generated import Constant, ScheduleFreeAdamW

EVERY = 4
"""Evaluations while training."""


def train(
    model: GPT2LMHeadModel, optimizer: Any, rows: Tensor, held_out: Tensor, *, steps: int = STEPS, folder: Path
) -> tuple[list[float], list[float]]:
    """Train over ``rows`` and save the averaged weights in ``folder``; returns the losses of steps and evaluations."""
    trainer = make_trainer(
        model,
        optimizer,
        Constant(optimizer),  # the Trainer would let lr fall, which the average does already
        rows,
        held_out,
        folder=str(folder),
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=steps // EVERY,
        eval_on_start=True,
    )
    trainer.train()
    optimizer.eval()  # changes nothing here, for the last step was followed by an evaluation
    trainer.save_model()
    history = trainer.state.log_history
    losses, evaluations = ([entry[name] for entry in history if name in entry] for name in ("loss", "eval_loss"))
    return losses, evaluations


def main() -> None:
    """Train, and print the losses of steps and evaluations."""
    model = make_gpt2()
    optimizer = ScheduleFreeAdamW(model, lr=2e-2, warmup=5)
    with tempfile.TemporaryDirectory() as folder:
        losses, evaluations = train(model, optimizer, make_rows(), make_held_out(), folder=Path(folder))
    report(losses)
    report_averages(evaluations)


if __name__ == "__main__":
    main()
