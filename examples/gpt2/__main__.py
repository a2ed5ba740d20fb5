"""The command line: ``python -m examples.gpt2``.

Exit codes: 0 all runs done, 1 the text or the output folder cannot be used, 2 wrong arguments, 130 interrupted. Every
failure is one sentence on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch

from examples.gpt2.arguments import Plan, make_parser, make_plan
from examples.gpt2.config import ConfigError, DataConfig
from examples.gpt2.data import Corpus, TextError, draw_batch, load_corpus
from examples.gpt2.loop import RunResult, take_step, train
from examples.gpt2.model import build_model
from examples.gpt2.optimizers import OptimizerError, Recipe, build_optimizer, build_schedule
from examples.gpt2.plot import plot_losses
from examples.gpt2.progress import open_progress
from examples.gpt2.report import RunLog, format_table, log_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train every optimizer in turn, report; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        plan = make_plan(options)
        require_buildable(plan)
    except (OptimizerError, ConfigError) as error:
        parser.error(str(error))
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        source = DataConfig(path=None if plan.text is None else str(plan.text))
        corpus = load_corpus(source, context=plan.model.context)
        plan.out.mkdir(parents=True, exist_ok=True)
        compare(plan, corpus)
    except (TextError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; logs so far are in {plan.out}", file=sys.stderr)
        return 130
    return 0


def compare(plan: Plan, corpus: Corpus) -> list[RunResult]:
    """Train every recipe of ``plan`` on ``corpus``; print the table, write logs and the plot."""
    print(
        f"{corpus.name}: {len(corpus.train):,} bytes to train on, {len(corpus.validation):,} held out; "
        f"GPT-2 with {plan.model.count_parameters():,} parameters; {torch.get_num_threads()} threads",
        flush=True,
    )
    results = [run(recipe, plan, corpus) for recipe in plan.recipes]
    picture = plan.out / "loss.png"
    plot_losses(results, picture, title=f"{corpus.name}, GPT-2 with {results[0].parameters:,} parameters")
    print(f"\n{format_table(results)}\n\nplot and logs: {picture}, {plan.out}/*.jsonl")
    return results


def run(recipe: Recipe, plan: Plan, corpus: Corpus) -> RunResult:
    """One recipe from a fresh model; the seed alone decides the initial weights and the batches."""
    rehearse(recipe, plan, corpus)
    model = build_model(plan.model, seed=plan.loop.seed)
    optimizer = build_optimizer(recipe, model)
    schedule = build_schedule(recipe.schedule, optimizer, steps=plan.loop.steps)
    settings = {
        "optimizer": asdict(recipe),
        "model": asdict(plan.model),
        "loop": asdict(plan.loop),
        "text": corpus.name,
    }
    progress = open_progress(recipe.name, plan.loop, context=plan.model.context)
    try:
        with RunLog(plan.out / log_name(recipe.name), settings) as log:
            result = train(recipe.name, model, optimizer, schedule, corpus, plan.loop, (progress, log))
            log.write_result(result)
    finally:
        progress.close()
    return result


def rehearse(recipe: Recipe, plan: Plan, corpus: Corpus) -> None:
    """Take one step with a throwaway model, so that what happens only once (imports, compilation) is not timed."""
    model = build_model(plan.model, seed=plan.loop.seed)
    batch = draw_batch(corpus.train, seed=0, step=0, batch=plan.loop.batch, context=plan.model.context)
    take_step(model, build_optimizer(recipe, model), batch, step=0, started_s=0.0, clip=plan.loop.clip)


def require_buildable(plan: Plan) -> None:
    """Build every optimizer and schedule once, so that a wrong setting is reported before any training."""
    for recipe in plan.recipes:
        optimizer = build_optimizer(recipe, build_model(plan.model, seed=0))
        build_schedule(recipe.schedule, optimizer, steps=plan.loop.steps)


if __name__ == "__main__":
    sys.exit(main())
