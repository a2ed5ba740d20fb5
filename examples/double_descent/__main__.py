"""The command line: ``python -m examples.double_descent``.

Exit codes: 0 done, 1 the folder for the results cannot be used, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from examples.double_descent.figure import draw_figure
from examples.double_descent.plan import TUNING_SEED, Budget, perform_all, plan_runs, tuning_runs
from examples.double_descent.report import collect, format_table, test_error, train_error, write_results
from examples.double_descent.run import Outcome, Run
from examples.files import describe_problem, make_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Perform every run, print the table, write the figure; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    budget = Budget(options.steps, options.draws)
    try:
        if options.tune:
            tune(budget, options.processes)
        else:
            make_folder(options.out)
            show(budget, options.processes, options.out)
    except OSError as error:
        print(f"{parser.prog}: {describe_problem(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    budget = Budget()
    parser = argparse.ArgumentParser(
        prog="python -m examples.double_descent",
        description="Test errors of random features and two-layer networks around the interpolation threshold, "
        "trained with several generated optimizers.",
    )
    parser.add_argument("--steps", type=parse_count, default=budget.steps, help="longest runs (default: %(default)s)")
    parser.add_argument("--draws", type=parse_count, default=budget.draws, help="of the task (default: %(default)s)")
    parser.add_argument(
        "--processes", type=parse_count, default=min(2, os.cpu_count() or 1), help="side by side (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/double_descent"), help="folder (default: %(default)s)")
    parser.add_argument("--tune", action="store_true", help="instead, compare the learning rates that were tried")
    return parser


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def show(budget: Budget, processes: int, out: Path) -> None:
    """Every run of the plan; then the table, all numbers, and the figure."""
    runs = plan_runs(budget)
    results = collect(counted(perform_all(runs, budget.draws, processes), runs))
    write_results(results, out / "results.json")
    draw_figure(results, budget, out / "double_descent.png")
    print(f"{format_table(results, budget.steps)}\n\nfigure and all numbers: {out}/")


def tune(budget: Budget, processes: int) -> None:
    """Training and test error at the threshold for each learning rate tried, on draws of their own."""
    runs = tuning_runs(budget)
    for outcome in counted(perform_all(runs, budget.draws, processes, TUNING_SEED), runs):
        print(
            f"{outcome.run.kind:<10}{outcome.run.optimizer:<6} lr {outcome.run.rate:<6g} "
            f"train error {train_error(outcome):.2e}, test error {test_error(outcome):.2f}",
            flush=True,
        )


def counted(outcomes: Iterable[Outcome], runs: Sequence[Run]) -> Iterator[Outcome]:
    """The outcomes, with a bar on stderr that counts steps."""
    with tqdm(total=sum(run.steps for run in runs), unit=" steps", unit_scale=True, dynamic_ncols=True) as bar:
        for outcome in outcomes:
            bar.update(outcome.run.steps)
            yield outcome


if __name__ == "__main__":
    sys.exit(main())
