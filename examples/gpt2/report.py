"""What is left of a comparison: a table for the terminal and one JSON-lines log per run.

A log has one object per line, each with a ``kind``: ``run`` (all settings, first), ``step``, ``validation``, and
``result`` (last; missing when a run was cut short). Lines are written as they happen. Numbers that are not finite
become null.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from examples.gpt2.loop import Observer, RunResult, StepRecord, ValidationRecord

COLUMNS = (
    "optimizer",
    "peak lr",
    "validation loss",
    "bits per byte",
    "ms per step",
    "optimizer share",
    "tokens/s",
    "seconds",
)
"""Headings of the table; losses are in nats."""


class RunLog(Observer):
    """Writes the JSON-lines log of one run; use it as a context manager."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._write("run", settings)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def on_step(self, record: StepRecord) -> None:
        """Write one step."""
        self._write("step", dataclasses.asdict(record))

    def on_validation(self, record: ValidationRecord) -> None:
        """Write one validation."""
        self._write("validation", dataclasses.asdict(record))

    def write_result(self, result: RunResult) -> None:
        """Write the summary that ends the log."""
        self._write("result", summarize(result))

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        line = {key: _json_ready(value) for key, value in {"kind": kind, **content}.items()}
        self._file.write(json.dumps(line, allow_nan=False, default=str) + "\n")
        self._file.flush()


def log_name(name: str) -> str:
    """File name of the log of the run called ``name``, which may be a path."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name) + ".jsonl"


def summarize(result: RunResult) -> dict[str, Any]:
    """The numbers of the table, by name; seconds and nats."""
    return {
        "name": result.name,
        "parameters": result.parameters,
        "peak_lr": result.peak_lr,
        "final_validation_loss": result.final_loss,
        "step_s": result.step_s,
        "optimizer_share": result.optimizer_share,
        "tokens_per_s": result.tokens_per_s,
        "training_s": result.steps[-1].elapsed_s,
        "diverged": result.diverged,
    }


def format_table(results: Sequence[RunResult]) -> str:
    """The comparison as aligned text; the lowest final validation loss is marked with a star."""
    finite = [result.final_loss for result in results if not result.diverged]
    rows = [COLUMNS, *(_row(result, best=bool(finite) and result.final_loss == min(finite)) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join([row[0].ljust(widths[0]), *_right_aligned(row[1:], widths[1:])]).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(result: RunResult, *, best: bool) -> tuple[str, ...]:
    loss = f"diverged at {result.steps[-1].step}" if result.diverged else f"{result.final_loss:.4f}"
    bits = "" if result.diverged else f"{result.final_loss / math.log(2):.3f}"
    return (
        result.name,
        f"{result.peak_lr:g}",
        f"* {loss}" if best else loss,
        bits,
        f"{1000 * result.step_s:.0f}",
        f"{result.optimizer_share:.0%}",
        f"{result.tokens_per_s:,.0f}",
        f"{result.steps[-1].elapsed_s:.0f}",
    )


def _right_aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def _json_ready(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    return value
