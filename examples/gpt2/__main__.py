"""The command line: ``python -m examples.gpt2 [train | compare]``.

Exit codes: 0 done, 1 something cannot be used or written, 2 wrong arguments, 3 the loss is not finite, 130 interrupted.
Every failure is one sentence on stderr.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from examples.files import describe_problem
from examples.gpt2.arguments import ComparePlan, TrainPlan, make_parser
from examples.gpt2.checkpoints import CheckpointError, find_checkpoints
from examples.gpt2.compare import Grid, GridError, train_command
from examples.gpt2.compare import compare as run_grid
from examples.gpt2.config import ConfigError, ModelConfig, OptimizerConfig
from examples.gpt2.data import TextError
from examples.gpt2.folders import TENSORBOARD_FOLDER, FolderError, clear, holding, require_clearable
from examples.gpt2.logs import LogError, ResultRecord
from examples.gpt2.model import build_model
from examples.gpt2.optimizers import OptimizerError, build_optimizer, build_schedule
from examples.gpt2.processes import Processes, join_processes
from examples.gpt2.progress import open_progress, open_tensorboard
from examples.gpt2.run import RunError, require_same_config, run
from examples.gpt2.table import format_table
from examples.gpt2.verdict.report import PAGE_FILE

DONE, FAILED, DIVERGED, INTERRUPTED = 0, 1, 3, 130
PROBLEMS = (
    CheckpointError, ConfigError, FolderError, GridError, LogError, OptimizerError, OSError, RunError, TextError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and train, one run or a comparison; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, rest = make_parser(words)
    options = parser.parse_args(rest)
    try:
        plan = options.make_plan(options)
        require_buildable([plan.config.optimizer] if isinstance(plan, TrainPlan) else plan.optimizers)
    except PROBLEMS as error:
        parser.error(describe_problem(error))
    if plan.threads:
        torch.set_num_threads(plan.threads)
    try:
        return train(plan) if isinstance(plan, TrainPlan) else compare(plan, words)
    except PROBLEMS as error:
        print(f"{parser.prog}: {describe_problem(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def require_buildable(optimizers: Sequence[OptimizerConfig]) -> None:
    """Build every optimizer and schedule on a small model, so that a wrong setting is reported before any training."""
    for config in optimizers:
        optimizer = build_optimizer(config, build_model(ModelConfig(vocab_size=2, width=8, heads=1), seed=0))
        build_schedule(config.schedule, optimizer, steps=2)


def train(plan: TrainPlan) -> int:
    """One run, continued if it was interrupted, in this process or in those of torchrun."""
    with join_processes(plan.config.loop.device, plan.sharding) as processes:
        if processes.is_first:  # before anything is written
            require_clearable(plan.out) if plan.fresh else require_same_config(plan.config, plan.out)
        with holding(plan.out) if processes.is_first else nullcontext():
            if plan.fresh and processes.is_first:
                clear(plan.out)
            processes.wait()
            result = run_shown(plan, processes)
        if processes.is_first:
            return report(plan, result)
    return DIVERGED if result.diverged else DONE


def run_shown(plan: TrainPlan, processes: Processes) -> ResultRecord:
    """The run with its progress on stderr, in the first process."""
    if not processes.is_first:
        return run(plan.config, plan.out, processes, cache=plan.cache)
    shown = [open_progress(plan.config), open_tensorboard(plan.out / TENSORBOARD_FOLDER)]
    observers = [each for each in shown if each]
    try:
        return run(plan.config, plan.out, processes, cache=plan.cache, observers=observers)
    finally:
        for each in observers:
            each.close()


def compare(plan: ComparePlan, words: Sequence[str]) -> int:
    """All runs of a comparison, each in a process of its own, and the verdict on them."""
    seeds = tuple(range(plan.base.loop.seed, plan.base.loop.seed + plan.seeds))
    verdict, outcomes = run_grid(
        Grid(plan.base, plan.optimizers, plan.factors, seeds=seeds),
        plan.out,
        baseline=plan.baseline,
        command=shlex.join(["python", "-m", "examples.gpt2", *words]),
        jobs=plan.jobs,
        threads=plan.threads,
        trainer=lambda folder: [*train_command(folder), "--cache", str(plan.cache)],
    )
    print(f"\n{format_table(verdict, jobs=plan.jobs)}\n\npage, pictures and logs: {plan.out / PAGE_FILE}")
    return DONE if all(outcome.done for outcome in outcomes) else FAILED


def report(plan: TrainPlan, result: ResultRecord) -> int:
    """Say how the run ended; the exit code."""
    name = plan.config.optimizer.name
    if result.diverged:
        left = find_checkpoints(plan.out)
        where = f"the last good checkpoint is {left[-1]}" if left else "no checkpoint was written before"
        print(f"{name}: the loss is not finite; {where}", file=sys.stderr)
        return DIVERGED
    print(
        f"{name}: validation loss {result.final_validation_loss:.4f}, {result.tokens_per_s:,.0f} tokens/s, "
        f"optimizer {result.optimizer_share:.1%} of a step, {result.training_s:.0f} s; log and checkpoints: {plan.out}"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
