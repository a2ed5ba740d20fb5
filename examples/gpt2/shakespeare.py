"""Optimizers on character-level Shakespeare, each at its own best learning rate: the table in RESULTS.md.

    python -m examples.gpt2.shakespeare --text tinyshakespeare.txt [--jobs 2] [--out runs/shakespeare]

The model and the batch are those of nanoGPT's small configuration for a CPU (4 layers, 4 heads, width 128, 64
characters, 12 sequences, 2,000 steps), which is known to reach a validation loss of about 1.88 with AdamW; three runs
at the learning rates that came to it say what they come to here. For each method the learning rate climbs or descends
a ladder of factors of two with one seed until the best one has a worse one on either side; then two more seeds run at
that rate. The matrix methods' rate for embeddings, head, norms and biases is AdamW's best. Stopped at any moment,
it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from examples.files import write_whole
from examples.gpt2.arguments import OneSentenceParser, parse_count
from examples.gpt2.checkpoints import find_checkpoints, read_checkpoint
from examples.gpt2.compare import Cell, Grid, GridError, prepare, run_cells, train_command
from examples.gpt2.config import DataConfig, LoopConfig, OptimizerConfig, RunConfig, ScheduleConfig
from examples.gpt2.data import load_corpus
from examples.gpt2.data.sampling import draw_batch
from examples.gpt2.folders import FolderError
from examples.gpt2.logs import Run, is_done, read_run
from examples.gpt2.loop import validate
from examples.gpt2.model import PRESETS
from examples.gpt2.processes import Processes
from examples.gpt2.run import build_training
from examples.gpt2.turns import take_turns
from examples.gpt2.verdict.judge import Method, Verdict
from examples.gpt2.verdict.report import write_verdict
from examples.gpt2.verdict.sentences import describe_ties

ADAMW = OptimizerConfig("AdamW", lr=1e-3, options={"beta2": 0.99, "weight_decay": 0.1})
KNOWN = replace(ADAMW, schedule=ScheduleConfig("cosine-to-tenth", warmup=0.05))
KNOWN_LOSS = 1.88
"""Of nanoGPT's README for this model, batch and number of steps, with ``KNOWN``."""

OTHERS = (
    OptimizerConfig("Muon", lr=0.016),
    OptimizerConfig("NorMuon", lr=4e-3),
    OptimizerConfig("NAMO", lr=0.064),
    OptimizerConfig("NAMOD", lr=0.064),
    OptimizerConfig("Nora", lr=8e-3),
    OptimizerConfig("RMNP", lr=8e-3),
)
SOPHIA = OptimizerConfig("SophiaG", lr=1e-3)
"""Where the ladders start; all have steps of two, and none may end at an edge."""

SCHEDULE = ScheduleConfig("cosine", warmup=0.05)
SEEDS = (0, 1, 2)
"""The first one also chooses the learning rate."""
MOST_RATES = 9
ESTIMATES = 25
ESTIMATE_BATCHES = 20
"""nanoGPT's README estimates the loss on that many random batches."""
TIMED_STEPS = 40
RESULTS = Path(__file__).parent / "RESULTS.md"


def make_base(text: Path, steps: int) -> RunConfig:
    """What all runs share."""
    loop = LoopConfig(
        steps=steps, batch=12, validate_every=max(1, steps // 8), validation_batches=140, checkpoint_every=500
    )
    return RunConfig(ADAMW, PRESETS["nano"], DataConfig(str(text), "characters"), loop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, run, and write the table."""
    parser = OneSentenceParser(prog="python -m examples.gpt2.shakespeare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--text", type=Path, required=True, help="Tiny Shakespeare, or any other text")
    parser.add_argument("--out", type=Path, default=Path("runs/shakespeare"), help="(default: %(default)s)")
    parser.add_argument("--jobs", type=parse_count, default=2, help="runs at the same time (default: 2)")
    parser.add_argument("--steps", type=parse_count, default=2000, help="per run (default: 2000)")
    parser.add_argument("--write", type=Path, default=RESULTS, help="where the table goes (default: RESULTS.md here)")
    options = parser.parse_args(arguments)
    try:
        results = experiment(make_base(options.text, options.steps), options.out, options.jobs)
    except (FolderError, GridError) as error:
        parser.error(str(error))
    text = format_results(results)
    write_whole(options.write, text)
    print(text)
    return 0


def experiment(base: RunConfig, out: Path, jobs: int) -> Results:
    """Train all there is to train in the folder ``out``; raises ``GridError`` if it holds another experiment."""
    known, tuning, final = out / "known", out / "tuning", out / "final"
    known_cells = prepare(Grid(base, (KNOWN,), rates=(rate_of(KNOWN),), seeds=SEEDS), known)
    train_all(known_cells, known, jobs)
    best = tune([scheduled(ADAMW)], base, tuning, jobs)
    rest_lr = best[0].lr
    best += tune(
        [scheduled(replace(each, rest_lr=rest_lr)) for each in OTHERS] + [scheduled(SOPHIA)], base, tuning, jobs
    )
    cells = [cell for each in best for cell in prepare(Grid(base, (each,), rates=(rate_of(each),), seeds=SEEDS), final)]
    keep_tuned(cells, tuning, final)
    train_all(cells, final, jobs)
    return Results(
        write_verdict(final),
        reproduced=[final_loss(known, cell) for cell in known_cells],
        scatter=fmean(estimate_scatter(known, cell, out / "tokens") for cell in known_cells),
        times=time_steps([replace(base, optimizer=each) for each in best], out / "tokens"),
        tuning=tuning,
        steps=base.loop.steps,
    )


def scheduled(config: OptimizerConfig) -> OptimizerConfig:
    """``config`` with the schedule that all share."""
    return replace(config, schedule=SCHEDULE)


def rate_of(config: OptimizerConfig) -> float:
    """The learning rate of ``config``, which has one."""
    assert config.lr is not None, config
    return config.lr


# Tuning


def tune(methods: Sequence[OptimizerConfig], base: RunConfig, folder: Path, jobs: int) -> list[OptimizerConfig]:
    """Each of ``methods`` at the best learning rate of its ladder."""
    ladders = {each.name: {-1, 0, 1} for each in methods}
    while True:
        cells = {each.name: ladder_cells(each, ladders[each.name], base, folder) for each in methods}
        train_all([cell for own in cells.values() for cell in own.values()], folder, jobs)
        losses = {name: {rung: final_loss(folder, cell) for rung, cell in own.items()} for name, own in cells.items()}
        missing = {name: missing_rung(own) for name, own in losses.items()}
        for name, rung in missing.items():
            if rung is not None:
                ladders[name].add(rung)
        if all(rung is None for rung in missing.values()):
            return [replace(each, lr=rate(each, min(losses[each.name], key=losses[each.name].get))) for each in methods]  # type: ignore[arg-type]


def missing_rung(losses: dict[int, float]) -> int | None:
    """The rung beside the best one that was not tried yet; None if the best one has neighbours, or too many were."""
    best = min(losses, key=lambda rung: losses[rung])
    if len(losses) >= MOST_RATES:
        return None
    if best == max(losses):
        return best + 1
    return best - 1 if best == min(losses) else None


def ladder_cells(method: OptimizerConfig, rungs: set[int], base: RunConfig, folder: Path) -> dict[int, Cell]:
    """The tuning runs of one method by rung."""
    ordered = sorted(rungs)
    grid = Grid(base, (method,), rates=tuple(rate(method, rung) for rung in ordered), seeds=SEEDS[:1])
    return dict(zip(ordered, prepare(grid, folder), strict=True))


def rate(method: OptimizerConfig, rung: int) -> float:
    """The learning rate on a rung."""
    return float(f"{rate_of(method) * 2.0**rung:.6g}")


def keep_tuned(cells: Sequence[Cell], tuning: Path, final: Path) -> None:
    """Take the runs that chose the learning rates over into the final ones."""
    for cell in cells:
        if is_done(tuning / cell.name) and not is_done(final / cell.name):
            shutil.copytree(tuning / cell.name, final / cell.name, dirs_exist_ok=True)


def train_all(cells: Sequence[Cell], folder: Path, jobs: int) -> None:
    """Train what is not done; ends the program if a run fails."""
    cache = folder.parent / "tokens"
    outcomes = run_cells(cells, folder, jobs=jobs, trainer=lambda home: [*train_command(home), "--cache", str(cache)])
    failed = [outcome.detail for outcome in outcomes if not outcome.done]
    if failed:
        sys.exit("\n".join(failed))


def final_loss(folder: Path, cell: Cell) -> float:
    """The validation loss at the end of a run; infinity for one that diverged."""
    result = read_run(folder / cell.name).result
    assert result is not None, cell
    return math.inf if result.diverged else result.final_validation_loss


def estimate_scatter(folder: Path, cell: Cell, cache: Path) -> float:
    """The standard deviation of estimates of the final validation loss on ``ESTIMATE_BATCHES`` random batches."""
    loop, context = cell.config.loop, cell.config.model.context
    corpus = load_corpus(cell.config.data, context=context, cache=cache)
    trained = build_training(cell.config, corpus, Processes(torch.device("cpu")))
    trained.model.load_state_dict(read_checkpoint(find_checkpoints(folder / cell.name)[-1]).model)

    def estimate(first: int) -> float:
        steps = range(first, first + ESTIMATE_BATCHES)
        drawn = (draw_batch(corpus.validation, seed=0, step=i, batch=loop.batch, context=context) for i in steps)
        return validate(trained, list(drawn))

    return stdev(estimate(ESTIMATE_BATCHES * i) for i in range(ESTIMATES))


def time_steps(configs: Sequence[RunConfig], cache: Path) -> dict[str, tuple[float, float]]:
    """Mean seconds of a step, and of the optimizer's part of it, by method; all take turns on one thread."""
    torch.set_num_threads(1)
    turns = take_turns(configs, TIMED_STEPS, cache)
    return {
        config.optimizer.name: (fmean(step.elapsed_s for step in steps), fmean(step.optimizer_s for step in steps))
        for config, steps in zip(configs, turns, strict=True)
    }


# The table


@dataclass(frozen=True)
class Results:
    """What the table tells.

    ``reproduced`` are the losses at the learning rates of the known result, ``scatter`` is the standard deviation of
    estimates of one such loss that are made as the known result was.
    """

    verdict: Verdict
    reproduced: Sequence[float]
    scatter: float
    times: Mapping[str, tuple[float, float]]
    tuning: Path
    steps: int


def format_results(results: Results) -> str:
    """RESULTS.md."""
    verdict, reproduced, run = results.verdict, results.reproduced, results.verdict.runs[0]
    lines = [
        "# Character-level Shakespeare",
        "",
        "Made by `python -m examples.gpt2.shakespeare --text tinyshakespeare.txt`; do not edit.",
        "",
        f"GPT-2 with {run.header.parameters:,} parameters (nanoGPT's small configuration for a CPU, with biases), "
        f"{run.header.tokens_per_step:,} characters a step, {results.steps:,} steps, cosine schedule to zero with 5 % "
        "warm-up, gradients clipped at 1. Losses are nats per character over nearly all of the last tenth of the "
        f"text, means over the seeds {word_list(SEEDS)}, the first of which also chose the rate; ± is their "
        "standard deviation.",
        "",
        "| method | lr | lr of the rest | validation loss | ± | loss − AdamW's | steps to AdamW's loss | ms per step "
        "| optimizer | state |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(result_row(method, results) for method in verdict.methods),
        "",
        f"Times are means over {TIMED_STEPS} steps for which the methods took turns in one process, on one thread.",
        "",
        *describe_ties([method for method in verdict.methods if method.best]),
        "",
        "## The known result",
        "",
        describe_known(reproduced, results.scatter),
        "",
        "## Tuning",
        "",
        f"Validation loss at the end with seed {SEEDS[0]}, by learning rate; the best one is the one used above.",
        "",
        *tuning_lines(results.tuning),
        "",
        "## Machine",
        "",
        f"{describe(run.header.machine)}; Python {platform.python_version()}, torch {torch.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def describe_known(reproduced: Sequence[float], scatter: float) -> str:
    """How the losses of the runs at the known result's learning rates compare with it."""
    mean, deviation = fmean(reproduced), stdev(reproduced)
    of_one = math.hypot(deviation, scatter)
    return (
        f"nanoGPT reports a validation loss of about {KNOWN_LOSS} with AdamW, whose rate falls from {rate_of(KNOWN):g} "
        f"to a tenth of that, for one run, estimated on {ESTIMATE_BATCHES} random batches, in a model without biases "
        f"and with no decay of vectors. Here AdamW comes to {mean:.4f} ± {deviation:.4f} with those rates, biases, "
        f"decay of all parameters, and the seeds {word_list(SEEDS)}. Estimates on {ESTIMATE_BATCHES} random batches "
        f"scatter by {scatter:.4f} around the loss of a run (standard deviation of {ESTIMATES}), so that such an "
        f"estimate for one run has a standard deviation of {of_one:.4f}: the reported loss lies "
        f"{(mean - KNOWN_LOSS) / of_one:.1f} of them below the mean."
    )


def word_list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def result_row(method: Method, results: Results) -> str:
    """One line of the table."""
    best, cost, verdict = method.best, method.cost, results.verdict
    if best is None or best.mean is None or cost is None:
        return f"| {method.label} | - | - | diverged | | | | | | |"
    rest = method.best_entries[0].config.optimizer.rest_lr
    step_s, optimizer_s = results.times[method.best_entries[0].config.optimizer.name]
    gap = "" if verdict.target is None or method is verdict.baseline else f"{best.mean - verdict.target:+.4f}"
    reach = "" if method.reach is None or method is verdict.baseline else f"{method.reach.step:,.0f}"
    cells = (
        method.label,
        f"{best.lr:g}",
        "same" if rest is None else f"{rest:g}",
        f"{best.mean:.4f}",
        "-" if best.deviation is None else f"{best.deviation:.4f}",
        gap,
        reach,
        f"{1000 * step_s:.1f}",
        f"{optimizer_s / step_s:.0%}",
        f"{cost.state_bytes / 1e6:.1f} MB",
    )
    return f"| {' | '.join(cells)} |"


def tuning_lines(folder: Path) -> list[str]:
    """A line per method: each rate and the loss it came to."""
    found: dict[str, list[Run]] = {}
    for home in sorted(path.parent for path in folder.glob("*/log.jsonl")):
        run = read_run(home)
        found.setdefault(run.header.name, []).append(run)
    lines = []
    for name, runs in found.items():
        ordered = sorted(runs, key=lambda run: rate_of(run.header.config.optimizer))
        shown = [f"{rate_of(run.header.config.optimizer):g}: {shown_loss(run)}" for run in ordered]
        lines.append(f"- {name}: {', '.join(shown)}")
    return lines


def shown_loss(run: Run) -> str:
    """The final loss of a run in words."""
    return "diverged" if run.result is None or run.result.diverged else f"{run.result.final_validation_loss:.4f}"


def describe(machine: object) -> str:
    """The facts about a machine in one line."""
    assert isinstance(machine, dict)
    return ", ".join(f"{name} {value}" for name, value in machine.items())


if __name__ == "__main__":
    sys.exit(main())
