"""The verdict of a comparison as aligned text for the terminal, and what its sentences add."""

from __future__ import annotations

import math
from collections.abc import Sequence

from examples.gpt2.verdict.judge import Method, Verdict
from examples.gpt2.verdict.sentences import word

COLUMNS = (
    "optimizer",
    "best lr",
    "validation loss",
    "spread",
    "bits per byte",
    "ms per step",
    "optimizer share",
    "tokens/s",
    "seconds",
)
"""Headings; losses are in nats per token, means over the seeds at the best learning rate."""


def format_table(verdict: Verdict, *, jobs: int = 1) -> str:
    """A row for each method, the best first, and below it what must be kept in mind."""
    in_bytes = bool(verdict.runs) and verdict.runs[0].header.unit == "byte"
    rows = [COLUMNS, *(_row(method, in_bytes) for method in verdict.methods)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join([row[0].ljust(widths[0]), *_right_aligned(row[1:], widths[1:])]).rstrip() for row in rows]
    wording = word(verdict, jobs=jobs)
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", wording.headline, *wording.cautions])


def _row(method: Method, in_bytes: bool) -> tuple[str, ...]:
    best, cost = method.best, method.cost
    if best is None or best.mean is None or cost is None:
        return (method.label, *["-"] * (len(COLUMNS) - 1))
    return (
        method.label,
        f"{best.lr:g}",
        f"{best.mean:.4f}",
        "-" if best.deviation is None else f"{best.deviation:.4f}",
        f"{best.mean / math.log(2):.3f}" if in_bytes else "-",
        f"{1000 * cost.step_s:.0f}",
        f"{cost.optimizer_share:.0%}",
        f"{cost.tokens_per_s:,.0f}",
        f"{cost.training_s:.0f}",
    )


def _right_aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
