"""What a run shows while it goes on: a bar on a terminal, plain lines elsewhere, and TensorBoard where it is installed.

Bar and lines say the loss, tokens per second, the optimizer's share of the time, and the time left of this run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from examples.gpt2.config import RunConfig
from examples.gpt2.logs import StepRecord, TelemetryRecord, ValidationRecord
from examples.gpt2.loop import Observer

LINES_PER_RUN = 10
"""How many lines stand in for a bar."""

SMOOTHING = 0.9
"""Weight of the past in the training loss that is shown; single batches are noisy."""


def open_progress(config: RunConfig, stream: TextIO | None = None) -> ProgressLines:
    """The progress display that fits ``stream`` (default: stderr); close it at the end of the run."""
    stream = stream or sys.stderr
    kind = ProgressBar if stream.isatty() else ProgressLines
    return kind(config, stream)


class ProgressLines(Observer):
    """About ten plain lines per run."""

    def __init__(self, config: RunConfig, stream: TextIO) -> None:
        self.name = config.optimizer.name
        self.steps = config.loop.steps
        self.tokens_per_step = config.loop.batch * config.model.context
        self.stream = stream
        self.loss: float | None = None
        self.validation_loss: float | None = None
        self.optimizer_s = self.total_s = 0.0
        self.seen = 0

    @property
    def optimizer_share(self) -> float:
        """Share of the time of the steps seen so far, from 0 to 1."""
        return self.optimizer_s / self.total_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on per second in the steps seen so far."""
        return self.seen * self.tokens_per_step / self.total_s

    def on_step(self, record: StepRecord) -> None:
        """Update the smoothed loss and the times, and show them when it is time."""
        past = record.loss if self.loss is None else self.loss
        self.loss = SMOOTHING * past + (1 - SMOOTHING) * record.loss
        self.optimizer_s += record.optimizer_s
        self.total_s += record.total_s
        self.seen += 1
        self.show(record)

    def on_validation(self, record: ValidationRecord) -> None:
        """Remember the validation loss for what is shown next."""
        self.validation_loss = record.loss

    def show(self, record: StepRecord) -> None:
        """Write a line at every tenth of the run."""
        if record.step % max(1, self.steps // LINES_PER_RUN) and record.step != self.steps:
            return
        left_s = (self.steps - record.step) * self.total_s / self.seen
        print(
            f"{self.name}: step {record.step}/{self.steps}, loss {self.loss:.3f}, {self.tokens_per_s:,.0f} tokens/s, "
            f"optimizer {self.optimizer_share:.0%}, {left_s:.0f} s left",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """Nothing to tidy up after lines."""


class ProgressBar(ProgressLines):
    """A tqdm bar that counts tokens, so that its rate is tokens per second; a resumed run starts where it left off."""

    def __init__(self, config: RunConfig, stream: TextIO) -> None:
        super().__init__(config, stream)
        total = self.steps * self.tokens_per_step
        self.bar = tqdm(
            desc=f"{self.name:<8}", total=total, unit=" tokens", unit_scale=True, file=stream, dynamic_ncols=True
        )

    def show(self, record: StepRecord) -> None:
        """Advance the bar to where the run is."""
        if self.seen == 1:
            self.bar.initial = self.bar.n = (record.step - 1) * self.tokens_per_step
        shown = {"loss": f"{self.loss:.3f}"}
        if self.validation_loss is not None:
            shown["validation"] = f"{self.validation_loss:.3f}"
        shown["optimizer"] = f"{self.optimizer_share:.0%}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.tokens_per_step)

    def close(self) -> None:
        """Leave the bar on the screen and free the line."""
        self.bar.close()


class TensorBoardLog(Observer):
    """The same records as curves in TensorBoard's files."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)

    def on_step(self, record: StepRecord) -> None:
        """Write the numbers of a step."""
        for name in ("loss", "lr", "gradient_norm", "optimizer_s", "forward_backward_s"):
            self.writer.add_scalar(f"train/{name}", getattr(record, name), record.step)

    def on_validation(self, record: ValidationRecord) -> None:
        """Write a validation loss."""
        self.writer.add_scalar("validation/loss", record.loss, record.step)

    def on_telemetry(self, record: TelemetryRecord) -> None:
        """Write what an update was like, a curve for each measure of each matrix."""
        for layer, measures in record.layers.items():
            for name, value in measures.items():
                self.writer.add_scalar(f"{name}/{layer}", value, record.step)

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()


def open_tensorboard(folder: Path) -> TensorBoardLog | None:
    """The log for TensorBoard in ``folder``; None where TensorBoard is not installed."""
    try:
        return TensorBoardLog(folder)
    except ImportError:
        return None
