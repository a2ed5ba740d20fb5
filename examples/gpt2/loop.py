"""One training run: a model, an optimizer, a schedule and a corpus in, a typed record of what happened out.

Times are wall-clock seconds of training alone; validation is left out of them. Observers are told of every record as
it appears; the loop itself writes no file and prints nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from examples.gpt2.data import Batch, Corpus, draw_batch, spread_batches
from examples.gpt2.model import GPT


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What all runs of a comparison share; ``clip`` bounds the norm of the whole gradient (infinity: no clipping)."""

    steps: int = 250
    batch: int = 8
    seed: int = 0
    clip: float = 1.0
    validate_every: int = 50
    validation_batches: int = 24


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: the loss (nats per token) and gradient norm before it, and the seconds that its two halves took."""

    step: int
    loss: float
    lr: float
    gradient_norm: float
    forward_backward_s: float
    optimizer_s: float
    elapsed_s: float  # since the start of the run, this step included

    @property
    def total_s(self) -> float:
        """Seconds of the whole step."""
        return self.forward_backward_s + self.optimizer_s


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """Mean loss (nats per token) over the fixed validation batches after ``step`` steps and ``elapsed_s`` seconds."""

    step: int
    loss: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything measured in one run; ``diverged`` says that it stopped at a loss that is not finite."""

    name: str
    parameters: int
    tokens_per_step: int
    steps: tuple[StepRecord, ...]
    validations: tuple[ValidationRecord, ...]
    diverged: bool

    @property
    def final_loss(self) -> float:
        """The last validation loss in nats per token; not a number for a run that diverged."""
        return math.nan if self.diverged else self.validations[-1].loss

    @property
    def peak_lr(self) -> float:
        """The highest learning rate (of the first parameter group) that the run reached."""
        return max(record.lr for record in self.steps)

    @property
    def step_s(self) -> float:
        """Median seconds per step: robust against a machine that others use too, and against a slow first step."""
        return statistics.median(record.total_s for record in self.steps)

    @property
    def optimizer_share(self) -> float:
        """Median share of a step, from 0 to 1, that the optimizer takes."""
        return statistics.median(record.optimizer_s / record.total_s for record in self.steps)

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on per second at the median step."""
        return self.tokens_per_step / self.step_s


class Observer:
    """What a run tells while it goes on; the methods do nothing until overridden."""

    def on_step(self, record: StepRecord) -> None:
        """Called after each step."""

    def on_validation(self, record: ValidationRecord) -> None:
        """Called after each validation."""


def train(
    name: str,
    model: GPT,
    optimizer: Optimizer,
    schedule: LRScheduler,
    corpus: Corpus,
    settings: LoopSettings,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Train ``model`` for ``settings.steps`` steps, validating at the start, every so often, and at the end.

    A loss that is not finite ends the run early.
    """
    batch, context = settings.batch, model.config.context
    held_out = list(
        spread_batches(corpus.validation, batches=settings.validation_batches, batch=batch, context=context)
    )
    steps: list[StepRecord] = []
    validations: list[ValidationRecord] = []
    elapsed_s = 0.0

    def validate_now(step: int) -> None:
        validations.append(ValidationRecord(step, validate(model, held_out), elapsed_s))
        for observer in observers:
            observer.on_validation(validations[-1])

    validate_now(0)
    for step in range(1, settings.steps + 1):
        drawn = draw_batch(corpus.train, seed=settings.seed, step=step, batch=batch, context=context)
        record = take_step(model, optimizer, drawn, step=step, started_s=elapsed_s, clip=settings.clip)
        schedule.step()
        elapsed_s = record.elapsed_s
        steps.append(record)
        for observer in observers:
            observer.on_step(record)
        if not math.isfinite(record.loss):
            break
        if step % settings.validate_every == 0 or step == settings.steps:
            validate_now(step)
    diverged = not (math.isfinite(steps[-1].loss) and math.isfinite(validations[-1].loss))
    return RunResult(name, count_parameters(model), batch * context, tuple(steps), tuple(validations), diverged)


def take_step(
    model: GPT, optimizer: Optimizer, batch: Batch, *, step: int, started_s: float, clip: float
) -> StepRecord:
    """Update ``model`` on ``batch``; the step begins ``started_s`` into the run; clipping is timed as backward."""
    lr = float(optimizer.param_groups[0]["lr"])
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(batch.inputs, batch.targets)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    middle = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    return StepRecord(
        step=step,
        loss=loss.item(),
        lr=lr,
        gradient_norm=norm.item(),
        forward_backward_s=middle - start,
        optimizer_s=end - middle,
        elapsed_s=started_s + end - start,
    )


@torch.no_grad()
def validate(model: GPT, batches: Sequence[Batch]) -> float:
    """Mean loss of ``model`` in nats per token over equally large ``batches``; the model's mode is restored."""
    training = model.training
    model.eval()
    losses = [model.loss(batch.inputs, batch.targets).item() for batch in batches]
    model.train(training)
    return statistics.fmean(losses)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers in ``model``; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
