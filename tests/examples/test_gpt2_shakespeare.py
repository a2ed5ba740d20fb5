"""The experiment on Shakespeare: how the learning rates are found, and what the table says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import pytest
import torch

from examples.gpt2 import shakespeare
from examples.gpt2.checkpoints import read_checkpoint
from examples.gpt2.compare import Cell
from examples.gpt2.config import DataConfig, LoopConfig, ModelConfig, RunConfig
from examples.gpt2.data import load_corpus
from examples.gpt2.data.sampling import draw_batch
from examples.gpt2.logs import (
    CONFIG_FILE,
    RunLog,
    RunRecord,
    StepRecord,
    ValidationRecord,
    is_done,
    read_config_file,
    summarize,
)
from examples.gpt2.model import build_model
from examples.gpt2.processes import Processes
from examples.gpt2.run import run
from examples.gpt2.turns import take_turns


@pytest.mark.parametrize(
    ("losses", "missing"),
    [
        ({-1: 3.0, 0: 2.0, 1: 2.5}, None),
        ({-1: 1.0, 0: 2.0, 1: 2.5}, -2),
        ({-1: 3.0, 0: 2.0, 1: 1.5}, 2),
        ({-1: 3.0, 0: 2.0, 1: math.inf}, None),
        (dict.fromkeys(range(-4, 5), 1.0) | {4: 0.5}, None),
    ],
)
def test_the_ladder_grows_until_the_best_rung_has_neighbours(losses: dict[int, float], missing: int | None) -> None:
    assert shakespeare.missing_rung(losses) == missing


def pretend(loss_at: dict[str, float]) -> object:
    """In place of training: a parabola in the logarithm of the learning rate, with its bottom where it is told."""

    def train_all(cells: Sequence[Cell], folder: Path, jobs: int) -> None:
        for cell in cells:
            if is_done(folder / cell.name):
                continue
            config = read_config_file(folder / cell.name / CONFIG_FILE)
            rate = shakespeare.rate_of(config.optimizer)
            loss = 2 + math.log2(rate / loss_at[config.optimizer.name]) ** 2 + 0.01 * config.loop.seed
            write_run(folder / cell.name, config, loss)

    return train_all


def write_run(folder: Path, config: RunConfig, loss: float) -> None:
    steps = [StepRecord(1, loss, 0.1, 1.0, 0.3, 0.1, 0.4)]
    validations = [ValidationRecord(0, 5.0, 0.0), ValidationRecord(1, loss, 0.4)]
    with RunLog.create(folder, RunRecord(config.optimizer.name, config, None, 10, 768, "character", "text")) as log:
        for step in steps:
            log.on_step(step)
        for validation in validations:
            log.on_validation(validation)
        log.write_result(summarize(steps, validations, tokens_per_step=768, optimizer_state_bytes=2_000_000))


BEST = {
    "AdamW": 4e-3,
    "Muon": 0.016,
    "NorMuon": 1e-3,
    "NAMO": 0.064,
    "NAMOD": 0.128,
    "Nora": 8e-3,
    "RMNP": 2e-3,
    "SophiaG": 1e-3,
}


def test_every_method_runs_at_the_bottom_of_its_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "train_all", pretend(BEST))
    monkeypatch.setattr(
        shakespeare, "time_steps", lambda configs, cache: {c.optimizer.name: (0.1, 0.02) for c in configs}
    )
    monkeypatch.setattr(shakespeare, "estimate_scatter", lambda folder, cell, cache: 0.03)
    table = tmp_path / "RESULTS.md"
    arguments = ["--text", "text.txt", "--out", str(tmp_path / "out"), "--write", str(table), "--steps", "1"]
    assert shakespeare.main(arguments) == 0
    rows = {
        cells[0]: cells for line in table.read_text().splitlines() if (cells := cells_of(line)) and cells[0] in BEST
    }
    assert {name: float(cells[1]) for name, cells in rows.items()} == BEST
    assert {name for name, cells in rows.items() if cells[2] == "0.004"} == set(BEST) - {"AdamW", "SophiaG"}
    assert all(
        cells[3] == "2.0100" and cells[4] == "0.0100" and cells[7:9] == ["100.0", "20%"] for cells in rows.values()
    )
    assert "Here AdamW comes to 6.0100 ± 0.0100" in table.read_text()  # at a quarter of its best rate
    assert "- AdamW: 0.0005: 11.0000, 0.001: 6.0000, 0.002: 3.0000, 0.004: 2.0000, 0.008: 3.0000" in table.read_text()


def test_a_folder_with_another_experiment_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(cells: Sequence[Cell], folder: Path, jobs: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shakespeare, "train_all", stop)
    with pytest.raises(KeyboardInterrupt):
        shakespeare.main(["--text", "text.txt", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        shakespeare.main(["--text", "other.txt", "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert "data.path was text.txt, is other.txt; choose another folder" in message and "Traceback" not in message


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def test_model_and_batch_are_those_of_the_known_result() -> None:
    base = shakespeare.make_base(Path("text.txt"), 2000)
    assert (base.model.layers, base.model.heads, base.model.width, base.model.context) == (4, 4, 128, 64)
    assert (base.loop.batch, base.loop.steps, base.data.tokenizer) == (12, 2000, "characters")


def test_the_known_result_is_placed_among_estimates_like_it() -> None:
    found = shakespeare.describe_known([1.92, 1.96, 2.0], 0.03)
    assert "comes to 1.9600 ± 0.0400" in found and "scatter by 0.0300" in found
    assert "has a standard deviation of 0.0500: the reported loss lies 1.6 of them below the mean" in found


def test_estimates_are_of_the_trained_model_on_random_validation_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, " * 100)
    loop = LoopConfig(steps=3, batch=2, validate_every=3, validation_batches=1, checkpoint_every=3)
    model = ModelConfig(context=8, layers=1, width=8, heads=1)
    config = RunConfig(shakespeare.SOPHIA, model, DataConfig(str(text)), loop)
    monkeypatch.setattr(shakespeare, "ESTIMATES", 3)
    monkeypatch.setattr(shakespeare, "ESTIMATE_BATCHES", 2)
    run(config, tmp_path / "cell", Processes(torch.device("cpu")), cache=tmp_path)
    found = shakespeare.estimate_scatter(tmp_path, Cell("cell", config), tmp_path)

    corpus = load_corpus(config.data, context=8, cache=tmp_path)
    trained = build_model(replace(config.model, vocab_size=corpus.vocab_size), seed=1)
    trained.load_state_dict(read_checkpoint(tmp_path / "cell" / "checkpoint-00000003.pt").model)
    batches = [draw_batch(corpus.validation, seed=0, step=i, batch=2, context=8) for i in range(6)]
    losses = [trained.loss(batch.inputs, batch.targets).item() for batch in batches]
    assert found == pytest.approx(stdev((a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)))
    assert found > 0


def test_trainings_that_take_turns_do_the_steps_that_they_do_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 100)
    base = RunConfig(
        shakespeare.ADAMW,
        ModelConfig(context=8, layers=1, width=8, heads=1),
        DataConfig(str(text)),
        LoopConfig(batch=2),
    )
    other = replace(base, optimizer=shakespeare.SOPHIA)
    (alone,) = take_turns([base], 2, tmp_path)
    first, second = take_turns([base, other], 2, tmp_path)
    assert [record.step for record in first] == [record.step for record in second] == [4, 5]
    assert [record.loss for record in first] == [record.loss for record in alone] != [record.loss for record in second]
    assert all(0 < record.optimizer_s < record.elapsed_s for record in first + second)
