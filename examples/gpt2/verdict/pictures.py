"""The charts of a verdict as PNGs, for places where a page cannot go.

In: a ``Verdict``. Out: ``loss-steps.png``, ``loss-tokens.png``, ``loss-seconds.png``, ``lr-sensitivity.png``,
``final-loss.png``, ``time-to-baseline.png`` and ``optimizer-cost.png``; one that would be empty is not written, and
removed if it was there. Computes nothing but where things are drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.gpt2.verdict.judge import Method, Point, Verdict
from examples.gpt2.verdict.numbers import smooth_training, spread_curve

BASELINE_COLOUR = "#4a4843"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
"""Told apart by colour-blind readers too (mostly Okabe and Ito); repeated with dashes after the last."""
MARKERS = ("o", "s", "^", "D", "v", "P", "h", "*")

SKIPPED_SHARE = 0.25
"""Share of the run at the start that may lie above the picture: the first steep fall says nothing about the end."""

SMALL: dict[str, Any] = {"fontsize": 9}
SOFT = "#6d6a63"

Style = dict[str, Any]


def draw_pictures(verdict: Verdict, folder: Path) -> list[Path]:
    """Write the pictures of ``verdict`` to ``folder``; returns the paths."""
    styles = assign_styles(verdict)
    pictures: dict[str, Callable[[Axes], bool]] = {
        "loss-steps": lambda axes: draw_loss(axes, verdict, styles, "step", "steps"),
        "loss-tokens": lambda axes: draw_loss(axes, verdict, styles, "tokens", "tokens"),
        "loss-seconds": lambda axes: draw_loss(axes, verdict, styles, "seconds", "seconds of training"),
        "lr-sensitivity": lambda axes: draw_sensitivity(axes, verdict, styles),
        "final-loss": lambda axes: draw_finals(axes, verdict, styles),
        "time-to-baseline": lambda axes: draw_reach(axes, verdict, styles),
    }
    written = [path for name, draw in pictures.items() if (path := _save(draw, folder / f"{name}.png"))]
    return [*written, *draw_cost(verdict, styles, folder / "optimizer-cost.png")]


def assign_styles(verdict: Verdict) -> dict[str, Style]:
    """Colour, marker and line of each method: the baseline is grey, the others are coloured in their order."""
    others = [method.label for method in verdict.methods if method is not verdict.baseline]
    styles = {
        label: {
            "color": COLOURS[turn % len(COLOURS)],
            "marker": MARKERS[(turn + 1) % len(MARKERS)],
            "linestyle": "-" if turn < len(COLOURS) else "--",
        }
        for turn, label in enumerate(others)
    }
    if verdict.baseline:
        styles[verdict.baseline.label] = {"color": BASELINE_COLOUR, "marker": MARKERS[0], "linestyle": "-"}
    return styles


def draw_loss(axes: Axes, verdict: Verdict, styles: dict[str, Style], unit: str, label: str) -> bool:
    """Validation loss with its range over the seeds, and thin the training loss, against ``unit``."""
    methods = [method for method in verdict.methods if method.curve]
    if not methods:
        return False
    for method in methods:
        style, places = styles[method.label], [getattr(point, unit) for point in method.curve]
        lowest, highest = zip(*spread_curve(method), strict=True)
        axes.fill_between(places, lowest, highest, color=style["color"], alpha=0.12, linewidth=0)
        training = smooth_training([entry.run for entry in method.best_entries if entry.run])
        axes.plot(*_places(training, unit), color=style["color"], alpha=0.35, linewidth=0.8)
        axes.plot(places, [point.loss for point in method.curve], markersize=4, linewidth=1.8, **style)
    if verdict.target is not None:
        axes.axhline(verdict.target, color=BASELINE_COLOUR, linewidth=0.9, linestyle=":")
    low, high = _visible_range(methods)
    axes.set(xlabel=label, ylabel=_loss_label(verdict), ylim=(low, high), xlim=(0, None))
    _name_curves(axes, methods, styles, spacing=(high - low) / 20)
    return True


def draw_sensitivity(axes: Axes, verdict: Verdict, styles: dict[str, Style]) -> bool:
    """Mean final loss by learning rate, with the range over the seeds; a ring marks the best, a cross a divergence."""
    losses = [loss for method in verdict.methods for rate in method.rates for loss in rate.losses]
    if not losses:
        return False
    low, middle = min(losses), statistics.median(losses)
    top = min(max(losses), low + 3.2 * (middle - low) + 0.01)
    margin = 0.06 * (top - low) + 0.002
    for method in verdict.methods:
        style, usable = styles[method.label], [rate for rate in method.rates if rate.finals]
        means = [statistics.fmean(rate.losses) for rate in usable]
        axes.plot([rate.lr for rate in usable], means, markersize=5, linewidth=1.4, label=method.label, **style)
        axes.vlines(
            [rate.lr for rate in usable],
            [min(rate.losses) for rate in usable],
            [max(rate.losses) for rate in usable],
            color=style["color"],
            alpha=0.6,
        )
        if method.best:
            mean = statistics.fmean(method.best.losses)
            axes.plot(method.best.lr, mean, "o", markersize=12, color=style["color"], fillstyle="none")
        failed = [rate.lr for rate in method.rates if rate.diverged]
        axes.plot(failed, [top + margin] * len(failed), "x", color=style["color"], clip_on=False)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel=_loss_label(verdict), ylim=(low - margin, top + margin))
    axes.legend(frameon=False, **SMALL)
    return True


def draw_finals(axes: Axes, verdict: Verdict, styles: dict[str, Style]) -> bool:
    """Final loss of each seed, their mean and range."""
    methods = [method for method in verdict.methods if method.best]
    for place, method in enumerate(methods):
        assert method.best
        colour, losses = styles[method.label]["color"], method.best.losses
        axes.plot([min(losses), max(losses)], [place, place], color=colour, alpha=0.22, linewidth=6)
        axes.plot(losses, [place] * len(losses), "o", color=colour, markersize=5)
        axes.plot(statistics.fmean(losses), place, "|", color=colour, markersize=20, markeredgewidth=2.2)
        axes.annotate(f"{statistics.fmean(losses):.4f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.set_xlabel(_loss_label(verdict))
    _name_rows(axes, methods, styles)
    return bool(methods)


def draw_reach(axes: Axes, verdict: Verdict, styles: dict[str, Style]) -> bool:
    """Steps and seconds until the baseline's final loss, as shares of the baseline's own."""
    base = verdict.baseline
    if base is None or not base.curve:
        return False
    methods, end = [method for method in verdict.methods if method.best], base.curve[-1]
    for place, method in enumerate(methods):
        colour = styles[method.label]["color"]
        if method.reach is None:
            axes.text(0.02, place, "not reached", va="center", color=SOFT)
            continue
        shares = (method.reach.step / end.step, method.reach.seconds / end.seconds)
        for share, shift, alpha, unit in zip(shares, (-0.19, 0.19), (1.0, 0.42), ("steps", "seconds"), strict=True):
            axes.barh(place + shift, share, height=0.32, color=colour, alpha=alpha)
            axes.text(share + 0.01, place + shift, f"{share:.0%} of the {unit}", va="center", fontsize=8, color=SOFT)
    axes.set(xlabel=f"until {base.label}'s final loss, relative to {base.label}", xlim=(0, None))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _name_rows(axes, methods, styles)
    return True


def draw_cost(verdict: Verdict, styles: dict[str, Style], path: Path) -> list[Path]:
    """The optimizer's milliseconds per step and share of it, and the memory of its state, beside each other."""
    path.unlink(missing_ok=True)
    methods = [method for method in verdict.methods if method.cost]
    if not methods:
        return []
    figure = Figure(figsize=(10, 1.6 + 0.45 * len(methods)), dpi=130, layout="constrained")
    time, memory = figure.subplots(1, 2)
    for place, method in enumerate(methods):
        assert method.cost
        colour, cost = styles[method.label]["color"], method.cost
        time.barh(place, 1e3 * cost.optimizer_s, height=0.55, color=colour)
        time.text(1e3 * cost.optimizer_s, place, f" {cost.optimizer_share:.1%} of the step", va="center", fontsize=8)
        memory.barh(place, cost.state_bytes / 1e6, height=0.55, color=colour)
    time.set(xlabel="ms in the optimizer per step (median)")
    time.margins(x=0.35)
    memory.set(xlabel="MB of optimizer state")
    for axes in (time, memory):
        _name_rows(axes, methods, styles)
    figure.savefig(path)
    return [path]


def _save(draw: Callable[[Axes], bool], path: Path) -> Path | None:
    figure = Figure(figsize=(8, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    path.unlink(missing_ok=True)
    if not draw(axes):
        return None
    figure.savefig(path)
    return path


def _loss_label(verdict: Verdict) -> str:
    return f"validation loss (nats per {verdict.runs[0].header.unit})"


def _places(points: Sequence[Point], unit: str) -> tuple[list[float], list[float]]:
    return [getattr(point, unit) for point in points], [point.loss for point in points]


def _name_rows(axes: Axes, methods: Sequence[Method], styles: dict[str, Style]) -> None:
    """One row per method, the best on top, each name in its colour."""
    axes.set_yticks(range(len(methods)), [method.label for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for text, method in zip(axes.get_yticklabels(), methods, strict=True):
        text.set_color(styles[method.label]["color"])


def _name_curves(axes: Axes, methods: Sequence[Method], styles: dict[str, Style], *, spacing: float) -> None:
    """Write each name and final loss right of its curve, moved apart vertically to at least ``spacing``."""
    below = float("-inf")
    for method in sorted(methods, key=lambda each: each.curve[-1].loss):
        loss = method.curve[-1].loss
        below = max(loss, below + spacing)
        axes.annotate(
            f"{method.label}  {loss:.3f}",
            xy=(1.0, below),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=styles[method.label]["color"],
            annotation_clip=False,
            **SMALL,
        )


def _visible_range(methods: Sequence[Method]) -> tuple[float, float]:
    losses = [
        loss
        for method in methods
        for point, pair in zip(method.curve, spread_curve(method), strict=True)
        if point.step >= SKIPPED_SHARE * method.curve[-1].step
        for loss in (point.loss, *pair)
    ]
    margin = 0.04 * (max(losses) - min(losses)) + 0.004
    return min(losses) - margin, max(losses) + margin
