"""Double descent, small: least squares peaks at the threshold, a run stopped early does not, conditioning decides."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest
import torch

from examples.double_descent import __main__ as command
from examples.double_descent.model import (
    TRAIN,
    condition_numbers,
    draw_task,
    least_squares,
    random_features,
    recondition,
)
from examples.double_descent.plan import FEATURES, THRESHOLD, WIDTHS, Budget, perform_all, plan_runs
from examples.double_descent.run import LEAST_SQUARES, OPTIONS, Kind, Outcome, Run, perform

DRAWS = 5
AROUND = (TRAIN // 2, TRAIN, 2 * TRAIN)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features_run(optimizer: str, size: int, steps: int, exponent: float = 1.0) -> Outcome:
    return perform(Run("features", optimizer, size, steps, exponent), DRAWS)


def test_least_squares_peaks_where_features_are_as_many_as_samples() -> None:
    below, at, above = (features_run(LEAST_SQUARES, size, 0) for size in AROUND)
    assert median(at.test) > 5 * max(median(below.test), median(above.test))
    assert max(at.train) < 1e-20 < min(below.train)
    assert at.condition > 5 * max(below.condition, above.condition)


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_a_run_that_is_stopped_early_has_no_peak(optimizer: str) -> None:
    below, at, above = (features_run(optimizer, size, 15) for size in AROUND)
    assert median(at.test) < 1.1 * max(median(below.test), median(above.test))
    assert median(at.train) > 0.05


def test_the_peak_rises_with_the_steps_while_the_training_error_falls() -> None:
    outcomes = [features_run("Muon", TRAIN, steps) for steps in (15, 60, 240)]
    tests, trains = [median(o.test) for o in outcomes], [median(o.train) for o in outcomes]
    assert tests[0] < tests[1] / 1.2 < tests[2] / 1.2**2
    assert trains[0] > 2 * trains[1] > 4 * trains[2]
    assert tests[2] > 1.5 * median(features_run("Muon", TRAIN * 2, 240).test)


def test_other_coordinates_change_the_condition_number_and_nothing_else() -> None:
    task = draw_task(DRAWS)
    features = random_features(task, TRAIN)
    easier = recondition(features, 0.5)
    torch.testing.assert_close(condition_numbers(easier), condition_numbers(features).sqrt(), rtol=1e-6, atol=0)
    same = least_squares(features, task.targets), least_squares(easier, task.targets)
    torch.testing.assert_close(same[0], same[1], rtol=1e-6, atol=1e-6)


def test_the_same_steps_reach_the_peak_when_the_condition_number_is_small() -> None:
    hard, easy = (features_run("SGD", TRAIN, 100, exponent) for exponent in (1.0, 0.25))
    assert median(easy.train) < median(hard.train) / 100
    assert median(easy.test) > 3 * median(hard.test)


@pytest.mark.parametrize("kind", ["features", "network"])
@pytest.mark.parametrize("optimizer", OPTIONS)
def test_no_draw_knows_of_the_others(kind: Kind, optimizer: str) -> None:
    run = Run(kind, optimizer, 7, 5)
    together = perform(run, 3)
    alone = [perform(run, 1, seed) for seed in range(3)]
    assert together.train == pytest.approx([outcome.train[0] for outcome in alone], rel=1e-9)
    assert together.test == pytest.approx([outcome.test[0] for outcome in alone], rel=1e-9)


@pytest.mark.wide  # starts Python anew
def test_other_processes_compute_the_same() -> None:
    runs = [Run("network", "Adam", 5, 3), Run("features", LEAST_SQUARES, 10, 0)]
    assert list(perform_all(runs, 2, processes=1))[1:] == [perform(runs[1], 2)]


def test_the_plan_has_each_run_once_and_both_thresholds() -> None:
    runs = plan_runs(Budget())
    assert len(set(runs)) == len(runs)
    assert THRESHOLD["features"] in FEATURES and THRESHOLD["network"] in WIDTHS
    assert {run.optimizer for run in runs} == {*OPTIONS, LEAST_SQUARES}


def invented(runs: Sequence[Run], draws: int, processes: int, first_seed: int = 0) -> Iterator[Outcome]:
    """An outcome for each run, without training; one has diverged."""
    for number, run in enumerate(runs):
        error = math.inf if number == 3 else 1.0 + number
        yield Outcome(run, (error,) * draws, (2 * error,) * draws, 10.0)


def test_the_command_writes_the_figure_and_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "perform_all", invented)
    assert command.main(["--out", str(tmp_path / "new"), "--steps", "2", "--draws", "3"]) == 0
    numbers = json.loads((tmp_path / "new" / "results.json").read_text())
    assert len(numbers) == len(plan_runs(Budget(2, 3)))
    assert (tmp_path / "new" / "double_descent.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("features ") == 1 + len(OPTIONS) and printed.count("network ") == len(OPTIONS)


def test_tuning_shows_every_rate_that_was_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "perform_all", invented)
    assert command.main(["--tune", "--steps", "2"]) == 0
    assert "network   NAMO   lr 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--draws", "-1"], ["--processes", "two"]])
def test_wrong_arguments_end_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2


def test_a_folder_that_cannot_be_used_ends_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["--out", str(tmp_path / "file" / "inside")]) == 1
    assert "examples.double_descent: " in capsys.readouterr().err
