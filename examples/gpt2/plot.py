"""The loss plot of a comparison as one PNG: against steps, and against seconds of training.

Dots are validations, thin lines the smoothed training loss; each curve is named at its right end in its own colour.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.gpt2.loop import RunResult

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by colour-blind readers too (Okabe and Ito); repeated from the start after the last."""

SMOOTHING = 0.06
"""Width of the window that smooths the training loss, as a share of the run."""

SKIPPED_SHARE = 0.12
"""Share of the run at the start that may lie above the picture: the first steep fall says nothing about the end."""


def plot_losses(results: Sequence[RunResult], path: Path, *, title: str) -> None:
    """Write the picture of ``results`` to ``path``; runs that diverged are drawn as far as they went."""
    figure = Figure(figsize=(12, 5), dpi=130, layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for result, colour in zip(results, _colours(len(results)), strict=True):
        _draw(by_step, result, colour, [0, *(record.step for record in result.steps)])
        _draw(by_time, result, colour, [0.0, *(record.elapsed_s for record in result.steps)])
    low, high = _visible_range(results)
    for axes, label in ((by_step, "steps"), (by_time, "seconds of training (validation left out)")):
        axes.set(xlabel=label, ylim=(low, high), xlim=(0, None))
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        _name_curves(axes, results, spacing=(high - low) / 18)
    by_step.set_ylabel("loss (nats per byte)")
    by_step.set_title("dots: validation, thin: training (smoothed)", loc="right", fontsize=8, color="0.4")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


def _draw(axes: Axes, result: RunResult, colour: str, places: Sequence[float]) -> None:
    """One run: training loss over all steps, validation loss where it was taken; ``places[n]`` is x after n steps."""
    axes.plot(places[1:], _smoothed([record.loss for record in result.steps]), color=colour, alpha=0.35, linewidth=0.9)
    axes.plot(
        [places[record.step] for record in result.validations],
        [record.loss for record in result.validations],
        color=colour,
        linewidth=1.8,
        marker="o",
        markersize=3.5,
    )


def _name_curves(axes: Axes, results: Sequence[RunResult], *, spacing: float) -> None:
    """Write each name and final loss right of its curve, moved apart vertically to at least ``spacing``."""
    ends = [(result.validations[-1].loss, index) for index, result in enumerate(results)]
    below = float("-inf")
    for loss, index in sorted(ends):
        result, below = results[index], max(loss, below + spacing)
        label = f"{result.name}  diverged" if result.diverged else f"{result.name}  {loss:.3f}"
        axes.annotate(
            label,
            xy=(1.0, below),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=_colours(len(results))[index],
            fontsize=9,
            annotation_clip=False,
        )


def _visible_range(results: Sequence[RunResult]) -> tuple[float, float]:
    """Lowest and highest loss to show: everything after the first part of the runs, with a margin."""
    losses = [
        record.loss
        for result in results
        for record in result.validations
        if record.step >= SKIPPED_SHARE * result.steps[-1].step and record.loss == record.loss
    ]
    losses = losses or [record.loss for result in results for record in result.validations]
    margin = 0.06 * (max(losses) - min(losses)) + 0.02
    return min(losses) - margin, max(losses) + margin


def _smoothed(losses: Sequence[float]) -> list[float]:
    """The mean over a centred window, which is narrower at both ends."""
    half = max(1, round(SMOOTHING * len(losses) / 2))
    return [statistics.fmean(losses[max(0, i - half) : i + half + 1]) for i in range(len(losses))]


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
