"""What telemetry costs a training run: the time of a measured step over that of one that is not.

    python -m benchmarks.telemetry [--optimizer NAMO] [--size tiny] [--rounds N]

Two trainings of the same model on the demo's corpus take turns, one measuring every step, one none. With telemetry
every N steps a run is slower by the excess of that ratio divided by N; the program says for which N that is 3 %.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.gpt2.config import DataConfig, LoopConfig, RunConfig
from examples.gpt2.model import PRESETS
from examples.gpt2.optimizers import tuned_config
from examples.gpt2.turns import take_turns

LIMIT = 0.03
"""The share by which telemetry may slow a run."""


def ratios(optimizer: str, size: str, rounds: int) -> list[float]:
    """Time of a measured step over that of another one, for each round."""
    with tempfile.TemporaryDirectory() as cache:
        configs = [
            RunConfig(tuned_config(optimizer), PRESETS[size], DataConfig(), LoopConfig(telemetry_every=every))
            for every in (0, 1)
        ]
        plain, measured = take_turns(configs, rounds, Path(cache))
    return [with_it.elapsed_s / without.elapsed_s for without, with_it in zip(plain, measured, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", default="NAMO")
    parser.add_argument("--size", choices=list(PRESETS), default="tiny")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    found = ratios(options.optimizer, options.size, options.rounds)
    low, ratio, high = statistics.quantiles(found, n=4)
    print(f"{options.optimizer}, {options.size}: a measured step takes {ratio:.3f} ({low:.3f}-{high:.3f}) of another")
    print(f"  within {LIMIT:.0%} of a run with --telemetry-every {max(1, math.ceil((ratio - 1) / LIMIT))} or more")


if __name__ == "__main__":
    main()
