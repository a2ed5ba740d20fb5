"""The verdict as files: one HTML page that needs nothing else, and the same pictures as PNGs.

In: a folder of runs, and ``comparison.json`` in it if ``compare`` made them. Out: ``verdict.html`` and PNGs in that
folder. The page's style and scripts lie in ``page/`` and are copied into it. The runs themselves are only read.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from examples.files import write_whole
from examples.gpt2.config import write_config
from examples.gpt2.verdict.entries import Entry
from examples.gpt2.verdict.judge import Cost, Method, Verdict, judge
from examples.gpt2.verdict.numbers import collect_numbers
from examples.gpt2.verdict.pictures import draw_pictures
from examples.gpt2.verdict.sentences import count, list_words, word

COMPARISON_FILE = "comparison.json"
PAGE_FILE = "verdict.html"
PARTS = Path(__file__).parent / "page"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the runs came about: the command, and how many ran at a time."""

    command: str | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a table: its name, the exact value to sort by, the text to read, and a remark below it."""

    field: str
    value: float | None
    text: str
    aside: str = ""


def write_verdict(folder: Path, *, baseline: str = "AdamW") -> Verdict:
    """Judge the runs below ``folder`` and write the page and the pictures there."""
    verdict = judge(folder, baseline=baseline)
    write_whole(folder / PAGE_FILE, render_page(verdict, read_comparison(folder)))
    draw_pictures(verdict, folder)
    return verdict


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Note in ``folder`` how its runs come about, for the page."""
    content = {"command": comparison.command, "jobs": comparison.jobs}
    write_whole(folder / COMPARISON_FILE, json.dumps(content, indent=2) + "\n")


def read_comparison(folder: Path) -> Comparison:
    """What ``write_comparison`` noted in ``folder``; runs that were started one by one have no such note."""
    path = folder / COMPARISON_FILE
    return Comparison(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Comparison()


def render_page(verdict: Verdict, comparison: Comparison) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["typeset"] = lambda text: text.replace("'", "’")
    baseline = verdict.baseline.label if verdict.baseline and verdict.target is not None else None
    bits = verdict.runs[0].header.unit == "byte"
    return environment.get_template("page.html.jinja").render(
        wording=word(verdict, jobs=comparison.jobs),
        header=verdict.runs[0].header,
        baseline=baseline,
        target=verdict.target,
        bits=bits,
        sharded=is_sharded(verdict),
        rows=[{"label": method.label, "cells": list(_result_cells(method, verdict))} for method in verdict.methods],
        runs=[_run_row(method, entry, verdict) for method in verdict.methods for entry in method.entries],
        specs=[_spec(method) for method in verdict.methods],
        counted_runs=count(len(verdict.entries), "run"),
        counts=_describe_counts(verdict),
        each_run=_describe_run(verdict),
        machines=_distinct(run.header.machine for run in verdict.runs),
        versions=_distinct(run.header.versions for run in verdict.runs),
        command=comparison.command or _commands(verdict),
        numbers=_embedded(collect_numbers(verdict)),
        style=_part("page.css"),
        drawing=_part("drawing.js"),
        charts=_part("charts.js"),
    )


def is_sharded(verdict: Verdict) -> bool:
    """Whether it is known of any run what its optimizer sent."""
    return any(run.communication for run in verdict.runs)


def format_bytes(number: float) -> str:
    """``12.3 MB``: thousands of bytes, as disks are sold."""
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _result_cells(method: Method, verdict: Verdict) -> Iterable[Cell]:
    best, base = method.best, verdict.baseline
    spread = f"± {best.deviation:.4f}" if best and best.deviation is not None else ""
    edge = {"low": "lowest tried", "high": "highest tried", "single": "only one"}.get(method.edge or "", "")
    mean = best.mean if best else None
    yield Cell("lr", best.lr if best else None, f"{best.lr:g}" if best else "–", edge)
    yield Cell("mean", mean, "–" if mean is None else f"{mean:.4f}", spread if best else "no finished run")
    yield Cell("seeds", len(best.finals) if best else 0, str(len(best.finals)) if best else "0")
    if verdict.runs[0].header.unit == "byte":
        bits = None if mean is None else mean / math.log(2)
        yield Cell("bits", bits, "–" if bits is None else f"{bits:.3f}")
    if base and verdict.target is not None:
        below = None if mean is None else verdict.target - mean
        yield Cell(
            "below", below, "–" if below is None else "0" if method is base else f"{below:+.4f}".replace("-", "−")
        )
        end, reach = base.curve[-1], method.reach
        yield _share_cell(
            "reach_step", reach.step if reach else None, end.step, f"{reach.step:,.0f} steps" if reach else ""
        )
        yield _share_cell(
            "reach_seconds", reach.seconds if reach else None, end.seconds, _seconds(reach.seconds) if reach else ""
        )
    yield from _cost_cells(method.cost)
    if is_sharded(verdict):
        yield _sent_cell(method.cost)


def _cost_cells(cost: Cost | None) -> Iterable[Cell]:
    if cost is None:
        yield from (Cell(field, None, "–") for field in ("step_s", "optimizer_s", "optimizer_share", "state_bytes"))
        return
    yield Cell("step_s", cost.step_s, _milliseconds(cost.step_s))
    yield Cell("optimizer_s", cost.optimizer_s, _milliseconds(cost.optimizer_s))
    yield Cell("optimizer_share", cost.optimizer_share, f"{cost.optimizer_share:.1%}")
    yield Cell("state_bytes", cost.state_bytes, format_bytes(cost.state_bytes))


def _sent_cell(cost: Cost | None) -> Cell:
    if cost is None or cost.sent_bytes is None or cost.calls is None:
        return Cell("sent_bytes", None, "–")
    return Cell("sent_bytes", cost.sent_bytes, format_bytes(cost.sent_bytes), count(round(cost.calls), "call"))


def _share_cell(field: str, value: float | None, whole: float, aside: str) -> Cell:
    if value is None:
        return Cell(field, None, "never")
    return Cell(field, value, f"{value / whole:.0%}" if whole else "–", aside)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _run_row(method: Method, entry: Entry, verdict: Verdict) -> dict[str, Any]:
    run, final = entry.run, entry.final_loss
    steps = run.steps[-1].step if run and run.steps else 0
    seconds = run.steps[-1].elapsed_s if run and run.steps else 0.0
    known = math.isfinite(final)
    return {
        "method": method.label,
        "folder": entry.folder.relative_to(verdict.folder).as_posix(),
        "status": entry.status,
        "config": json.dumps(write_config(entry.config), indent=2),
        "cells": [
            Cell("lr", entry.lr, f"{entry.lr:g}"),
            Cell("seed", entry.seed, str(entry.seed)),
            Cell("final_validation_loss", final if known else None, f"{final:.4f}" if known else "–"),
            Cell("steps", steps, f"{steps:,}"),
            Cell("training_s", seconds, f"{seconds:,.1f}"),
        ],
    }


def _spec(method: Method) -> dict[str, Any]:
    text = next((entry.run.header.spec for entry in method.entries if entry.run and entry.run.header.spec), None)
    name = method.entries[0].config.optimizer.name
    aside = count(len(text.splitlines()), "line") if text else f"{name} was not compiled from a spec"
    return {"label": method.label, "text": text, "aside": aside}


def _describe_counts(verdict: Verdict) -> str:
    seeds = sorted({entry.seed for entry in verdict.entries})
    rates = max(len(method.rates) for method in verdict.methods)
    parts = [
        f"{len(verdict.with_status(status))} {status}"
        for status in ("finished", "diverged", "unfinished", "not started")
        if verdict.with_status(status)
    ]
    return (
        f"{count(len(verdict.methods), 'method')}, up to {count(rates, 'learning rate')} each, "
        f"seeds {list_words([str(seed) for seed in seeds])}: {list_words(parts)}."
    )


def _describe_run(verdict: Verdict) -> str:
    run = verdict.runs[0]
    loop, model, unit = run.header.config.loop, run.header.config.model, run.header.unit
    tokens = run.header.tokens_per_step
    return (
        f"{loop.steps:,} steps of {tokens:,} {unit}s ({loop.steps * tokens:,} in all), {model.layers} layers of width "
        f"{model.width} with {model.heads} heads, context {model.context}; forward pass in {loop.dtype}, gradient norm "
        f"clipped at {loop.clip:g}. Runs with the same seed start from the same weights and see the same batches."
    )


def _distinct(facts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each different mapping once, as text, in the order in which they come."""
    texts = (", ".join(f"{name} {value}" for name, value in each.items() if value is not None) for each in facts)
    return [text for text in dict.fromkeys(texts) if text]


def _commands(verdict: Verdict) -> str:
    """One command per run, for runs that were not started together."""
    folders = [shlex.quote(str(entry.folder)) for entry in verdict.entries]
    return "\n".join(f"python -m examples.gpt2 train --config {home}/config.json --out {home}" for home in folders)


def _embedded(numbers: Mapping[str, Any]) -> Markup:
    """JSON that may stand in a script element: nothing in it can end that element."""
    return Markup(json.dumps(numbers, allow_nan=False).replace("<", "\\u003c"))


def _part(name: str) -> Markup:
    return Markup((PARTS / name).read_text(encoding="utf-8"))
