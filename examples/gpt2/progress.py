"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere (a log file, a CI job).

Both show the loss, tokens per second and the time left of this run.
"""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

from examples.gpt2.loop import LoopSettings, Observer, StepRecord, ValidationRecord

LINES_PER_RUN = 10
"""How many lines stand in for a bar."""

SMOOTHING = 0.9
"""Weight of the past in the training loss that is shown; single batches are noisy."""


def open_progress(name: str, settings: LoopSettings, *, context: int, stream: TextIO | None = None) -> ProgressLines:
    """The progress display that fits ``stream`` (default: stderr); close it at the end of the run."""
    stream = stream or sys.stderr
    kind = ProgressBar if stream.isatty() else ProgressLines
    return kind(name, settings, context=context, stream=stream)


class ProgressLines(Observer):
    """About ten plain lines per run."""

    def __init__(self, name: str, settings: LoopSettings, *, context: int, stream: TextIO) -> None:
        self.name = name
        self.steps = settings.steps
        self.tokens_per_step = settings.batch * context
        self.stream = stream
        self.loss = 0.0
        self.validation_loss: float | None = None

    def on_step(self, record: StepRecord) -> None:
        """Update the smoothed loss and show it when it is time."""
        past = SMOOTHING if record.step > 1 else 0.0
        self.loss = past * self.loss + (1 - past) * record.loss
        self.show(record)

    def on_validation(self, record: ValidationRecord) -> None:
        """Remember the validation loss for what is shown next."""
        self.validation_loss = record.loss

    def show(self, record: StepRecord) -> None:
        """Write a line at every tenth of the run."""
        if record.step % max(1, self.steps // LINES_PER_RUN) and record.step != self.steps:
            return
        step_s = record.elapsed_s / record.step
        print(
            f"{self.name}: step {record.step}/{self.steps}, loss {self.loss:.3f}, "
            f"{self.tokens_per_step / step_s:,.0f} tokens/s, {(self.steps - record.step) * step_s:.0f} s left",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """Nothing to tidy up after lines."""


class ProgressBar(ProgressLines):
    """A tqdm bar that counts tokens, so that its rate is tokens per second."""

    def __init__(self, name: str, settings: LoopSettings, *, context: int, stream: TextIO) -> None:
        super().__init__(name, settings, context=context, stream=stream)
        total = self.steps * self.tokens_per_step
        self.bar = tqdm(
            desc=f"{name:<8}", total=total, unit=" tokens", unit_scale=True, file=stream, dynamic_ncols=True
        )

    def show(self, record: StepRecord) -> None:
        """Advance the bar by the tokens of one step."""
        losses = {"loss": f"{self.loss:.3f}"}
        if self.validation_loss is not None:
            losses["validation"] = f"{self.validation_loss:.3f}"
        self.bar.set_postfix(losses, refresh=False)
        self.bar.update(self.tokens_per_step)

    def close(self) -> None:
        """Leave the bar on the screen and free the line."""
        self.bar.close()
