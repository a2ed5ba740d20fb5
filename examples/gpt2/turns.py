"""Steps of several trainings in turn, in one process: times that compare even where other work comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from examples.gpt2.config import RunConfig
from examples.gpt2.data import load_corpus
from examples.gpt2.logs import StepRecord
from examples.gpt2.loop import take_step
from examples.gpt2.processes import Processes
from examples.gpt2.run import build_training

UNCOUNTED = 3
"""Steps of each training before those that count."""


def take_turns(configs: Sequence[RunConfig], rounds: int, cache: Path) -> list[list[StepRecord]]:
    """``rounds`` steps of each configuration, which share the data and its context; ``elapsed_s`` is the step's own."""
    processes = Processes(torch.device("cpu"))
    corpus = load_corpus(configs[0].data, context=configs[0].model.context, cache=cache)
    trainings = [build_training(config, corpus, processes) for config in configs]
    taken = [[take_step(each, step, 0.0)[0] for each in trainings] for step in range(1, UNCOUNTED + rounds + 1)]
    return [list(records) for records in zip(*taken[UNCOUNTED:], strict=True)]
