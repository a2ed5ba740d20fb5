"""The GPT-2 training driver: its model, data, loop, reports and command line, all at toy size."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.gpt2.__main__ import main
from examples.gpt2.arguments import choose_recipes
from examples.gpt2.config import DataConfig, ModelConfig
from examples.gpt2.data import (
    Corpus,
    load_corpus,
)
from examples.gpt2.loop import LoopSettings, RunResult, StepRecord, ValidationRecord, train
from examples.gpt2.model import GPT, build_model
from examples.gpt2.optimizers import (
    OptimizerError,
    Recipe,
    Schedule,
    build_optimizer,
    build_schedule,
    find_recipe,
)
from examples.gpt2.progress import ProgressBar, ProgressLines, open_progress
from examples.gpt2.report import format_table

ROOT = Path(__file__).parents[1]
TINY = ModelConfig(vocab_size=256, context=32, layers=2, width=32, heads=2)
LOOP = LoopSettings(steps=30, batch=8, seed=3, validate_every=10, validation_batches=4)
ADAMW = Recipe("torch.optim.AdamW", lr=1e-2)
TINY_ARGUMENTS = [
    "--layers=1",
    "--width=16",
    "--heads=1",
    "--context=16",
    "--batch=2",
    "--steps=6",
    "--validate-every=3",
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(DataConfig(), context=TINY.context)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    return path


def run_tiny(corpus: Corpus, recipe: Recipe = ADAMW, settings: LoopSettings = LOOP) -> tuple[GPT, RunResult]:
    model = build_model(TINY, seed=settings.seed)
    optimizer = build_optimizer(recipe, model)
    schedule = build_schedule(recipe.schedule, optimizer, steps=settings.steps)
    return model, train(recipe.name, model, optimizer, schedule, corpus, settings)


# optimizers


def test_names_of_torch_optimizers_are_found() -> None:
    recipe = find_recipe("torch.optim.SGD")
    optimizer = build_optimizer(recipe, GPT(TINY))
    assert type(optimizer) is torch.optim.SGD and recipe.lr is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.optim.AdamWW", r"torch\.optim has no Optimizer named AdamWW; did you mean AdamW\?"),
        ("torch.optim.Optimizer", r"torch\.optim has no Optimizer named Optimizer"),
        ("NAMOE", r"no Optimizer named NAMOE; did you mean NAMO\?"),
        ("specs/absent.opt", r"specs/absent\.opt"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        find_recipe(name)


def test_a_spec_file_gets_the_settings_tuned_for_its_class(tmp_path: Path) -> None:
    path = tmp_path / "mine.opt"
    path.write_text((ROOT / "specs" / "namo.opt").read_text())
    recipe, tuned = find_recipe(str(path)), find_recipe("NAMO")
    assert recipe == replace(tuned, name=str(path))
    assert type(build_optimizer(recipe, GPT(TINY))).__name__ == "NAMO"


def test_a_spec_with_a_mistake_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.opt"
    path.write_text((ROOT / "specs" / "sgd.opt").read_text().replace("grad", "grd"))
    with pytest.raises(OptimizerError, match=r"unknown name `grd`"):
        find_recipe(str(path))


def test_settings_reach_the_optimizer() -> None:
    (recipe,) = choose_recipes(["NAMO"], [("NAMO", "lr", 0.5), ("NAMO", "mu1", 0.25), ("NAMO", "schedule", "linear")])
    group = build_optimizer(recipe, GPT(TINY)).param_groups[0]
    assert (group["lr"], group["mu1"], recipe.schedule.shape) == (0.5, 0.25, "linear")


@pytest.mark.parametrize("name", ["NAMO", "Muon", "torch.optim.SGD"])
def test_the_rest_can_have_its_own_rate(name: str) -> None:
    model = GPT(TINY)
    hidden, *others = build_optimizer(Recipe(name, lr=0.5, rest_lr=0.25), model).param_groups
    assert hidden["lr"] == 0.5 and {id(weight) for weight in hidden["params"]} == {
        id(module.weight) for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)
    }
    assert all(group["lr"] * group.get("rest_ratio", 1.0) == 0.25 for group in others)
    assert sum(len(group["params"]) for group in [hidden, *others]) == len(list(model.parameters()))


def test_the_rest_learns_at_its_own_rate() -> None:
    """The first step of AdamW, which follows the rest, has the size of its learning rate."""
    model = build_model(TINY, seed=0)
    optimizer = build_optimizer(Recipe("Muon", lr=0.5, rest_lr=0.25), model)
    before = model.norm.weight.detach().clone()
    model.loss(*torch.randint(0, 256, (2, 4, TINY.context), generator=torch.Generator().manual_seed(0))).backward()
    optimizer.step()
    moved = (model.norm.weight - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.25), rtol=1e-3)


@pytest.mark.parametrize("name", ["NAMO", "NAMOD", "Muon", "AdamW", "torch.optim.AdamW"])
def test_every_tuned_recipe_trains(corpus: Corpus, name: str) -> None:
    _, result = run_tiny(corpus, find_recipe(name))
    assert result.final_loss < result.validations[0].loss - 0.8


def test_a_wrong_setting_is_an_error() -> None:
    (recipe,) = choose_recipes(["NAMO"], [("NAMO", "mu9", 0.25)])
    with pytest.raises(OptimizerError, match=r"NAMO: .*mu9"):
        build_optimizer(recipe, GPT(TINY))


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_schedules_warm_up_and_decay(shape: str) -> None:
    optimizer = build_optimizer(Recipe("torch.optim.SGD", lr=2.0), GPT(TINY))
    schedule = build_schedule(Schedule(shape, warmup=0.2), optimizer, steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    if shape == "constant":
        assert rates[3:] == [2.0] * 17
    else:
        assert rates[4:] == sorted(rates[4:], reverse=True)
        assert rates[12] == pytest.approx(1.0)
        assert 0 < rates[-1] < 0.2 and optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_schedules_move_the_rate_of_every_group() -> None:
    optimizer = build_optimizer(Recipe("NAMO", lr=1.0, rest_lr=0.1), GPT(TINY))
    schedule = build_schedule(Schedule("linear", warmup=0), optimizer, steps=2)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, *[0.05] * (len(optimizer.param_groups) - 1)]


def test_generated_schedules_are_found_by_name() -> None:
    optimizer = build_optimizer(ADAMW, GPT(TINY))
    schedule = build_schedule(Schedule("UBA", warmup=0.1), optimizer, steps=50)
    assert type(schedule).__name__ == "UBA" and optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 5)
    with pytest.raises(OptimizerError, match=r"no LRScheduler named UBB; did you mean UBA\?"):
        build_schedule(Schedule("UBB"), optimizer, steps=50)


# loop


def test_training_lowers_the_loss(corpus: Corpus) -> None:
    _, result = run_tiny(corpus)
    assert result.validations[0].loss == pytest.approx(math.log(256), abs=0.1)
    assert result.final_loss < result.validations[0].loss - 1.5
    assert not result.diverged


def test_a_run_repeats_exactly(corpus: Corpus) -> None:
    first, second = run_tiny(corpus), run_tiny(corpus)
    assert [step.loss for step in first[1].steps] == [step.loss for step in second[1].steps]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))


def test_optimizers_start_from_the_same_weights_and_batch(corpus: Corpus) -> None:
    _, adamw = run_tiny(corpus)
    _, sgd = run_tiny(corpus, Recipe("torch.optim.SGD", lr=0.1))
    assert adamw.steps[0].loss == sgd.steps[0].loss and adamw.validations[0].loss == sgd.validations[0].loss
    assert adamw.steps[-1].loss != sgd.steps[-1].loss


def test_records_are_complete_and_times_add_up(corpus: Corpus) -> None:
    model, result = run_tiny(corpus)
    assert [record.step for record in result.steps] == list(range(1, 31))
    assert [record.step for record in result.validations] == [0, 10, 20, 30]
    total = sum(record.forward_backward_s + record.optimizer_s for record in result.steps)
    assert result.steps[-1].elapsed_s == pytest.approx(total)
    assert result.validations[-1].elapsed_s == result.steps[-1].elapsed_s
    assert all(record.forward_backward_s > 0 and record.optimizer_s > 0 for record in result.steps)
    assert 0 < result.optimizer_share < 1
    rates = [record.lr for record in result.steps]
    assert rates[0] < rates[1] < max(rates) == result.peak_lr == 1e-2 and rates[-1] < 1e-3
    assert result.tokens_per_s == pytest.approx(8 * 32 / result.step_s)
    assert result.parameters == model.config.count_parameters()


def test_a_slow_optimizer_has_the_larger_share(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.SGD.step

    def slow_step(self: torch.optim.SGD) -> None:
        step(self)
        time.sleep(0.05)

    monkeypatch.setattr(torch.optim.SGD, "step", slow_step)
    _, result = run_tiny(corpus, Recipe("torch.optim.SGD", lr=0.1), LoopSettings(steps=3, validation_batches=1))
    assert result.optimizer_share > 0.5 and result.step_s > 0.05


def test_clipping_bounds_the_gradient(corpus: Corpus) -> None:
    settings = LoopSettings(steps=1, batch=4, clip=1e-3, validation_batches=1)
    model, result = run_tiny(corpus, Recipe("torch.optim.SGD", lr=0.0), settings)
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert result.steps[0].gradient_norm > 0.1


def test_a_run_that_diverges_stops(corpus: Corpus) -> None:
    _, result = run_tiny(corpus, Recipe("torch.optim.SGD", lr=1e30, schedule=Schedule("constant", warmup=0)))
    assert result.diverged and math.isnan(result.final_loss) and len(result.steps) < 30


# progress and report


def test_progress_without_a_terminal_is_lines() -> None:
    stream = io.StringIO()
    progress = open_progress("NAMO", LoopSettings(steps=20, batch=4), context=10, stream=stream)
    assert type(progress) is ProgressLines
    for step in range(1, 21):
        progress.on_step(StepRecord(step, 2.5, 0.1, 1.0, 0.3, 0.2, elapsed_s=0.5 * step))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "NAMO: step 2/20, loss 2.500, 80 tokens/s, 9 s left"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    progress = open_progress("NAMO", LoopSettings(steps=3, batch=4), context=10, stream=stream)
    assert type(progress) is ProgressBar
    progress.on_validation(ValidationRecord(0, 5.5, 0.0))
    for step in range(1, 4):
        progress.on_step(StepRecord(step, 2.5, 0.1, 1.0, 0.3, 0.2, elapsed_s=0.5 * step))
    progress.close()
    shown = stream.getvalue()
    assert "100%" in shown and "loss=2.500" in shown and "validation=5.500" in shown and "tokens/s" in shown


def make_result(name: str, losses: list[float]) -> RunResult:
    steps = tuple(StepRecord(i, loss, 0.1, 1.0, 0.3, 0.1, 0.4 * i) for i, loss in enumerate(losses, start=1))
    validations = tuple(ValidationRecord(record.step, record.loss, record.elapsed_s) for record in steps)
    return RunResult(name, 10, 64, steps, validations, diverged=not math.isfinite(losses[-1]))


def test_the_table_marks_the_best_run() -> None:
    table = format_table([make_result("A", [3.0, 2.0]), make_result("Bee", [3.0, 1.0]), make_result("C", [math.nan])])
    heading, _, a, b, c = table.splitlines()
    assert heading.split("  ")[0] == "optimizer"
    assert a.split() == ["A", "0.1", "2.0000", "2.885", "400", "25%", "160", "1"]
    assert b.split() == ["Bee", "0.1", "*", "1.0000", "1.443", "400", "25%", "160", "1"]
    assert "diverged at 1" in c and "nan" not in c


# command line


def test_a_comparison_leaves_logs_a_plot_and_a_table(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "one"
    arguments = ["--optimizers", "torch.optim.AdamW,torch.optim.SGD", "--text", str(text), "--out", str(out)]
    assert main([*arguments, "--lr", "torch.optim.SGD=0.5", "--clip", "0", *TINY_ARGUMENTS]) == 0
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    lines = [json.loads(line) for line in (out / "torch.optim.SGD.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["run", "validation", *["step"] * 3, "validation", *["step"] * 3, "validation", "result"]
    assert lines[0]["optimizer"]["lr"] == 0.5 and lines[0]["model"]["width"] == 16 and lines[0]["loop"]["clip"] is None
    assert lines[-1]["final_validation_loss"] == lines[-2]["loss"]
    other = [json.loads(line) for line in (out / "torch.optim.AdamW.jsonl").read_text().splitlines()]
    assert other[1]["loss"] == lines[1]["loss"] and other[2]["loss"] == lines[2]["loss"]
    shown = capsys.readouterr()
    assert "torch.optim.SGD" in shown.out and "validation loss" in shown.out and "loss.png" in shown.out
    assert "tokens/s" in shown.err and "left" in shown.err


def test_a_diverged_run_is_logged_and_plotted(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--optimizers", "torch.optim.SGD", "--lr", "torch.optim.SGD=1e30", "--clip", "0"]
    arguments += ["--text", str(text), "--out", str(tmp_path)]
    assert main([*arguments, *TINY_ARGUMENTS]) == 0
    last = json.loads((tmp_path / "torch.optim.SGD.jsonl").read_text().splitlines()[-1])
    assert last["diverged"] and last["final_validation_loss"] is None
    assert (tmp_path / "loss.png").exists() and "diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: expected a whole number of at least 1, got '0'"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0"),
        (["--clip", "x"], "argument --clip: expected a number of at least 0, got 'x'"),
        (["--optimizers", "A,,B"], "expected different names separated by commas, got 'A,,B'"),
        (["--optimizers", "A,A"], "expected different names separated by commas, got 'A,A'"),
        (["--optimizers", "torch.optim.Adm"], "torch.optim has no Optimizer named Adm; did you mean"),
        (["--lr", "NAMO"], "expected NAME=VALUE such as NAMO=0.02, got 'NAMO'"),
        (["--lr", "torch.optim.SGD=-1"], "expected NAME=VALUE such as NAMO=0.02, got 'torch.optim.SGD=-1'"),
        (["--set", "momentum=1"], "expected NAME.SETTING=VALUE such as Muon.rest_lr=3e-3, got 'momentum=1'"),
        (["--set", "torch.optim.SGD.momentun=1"], "torch.optim.SGD: "),
        (["--set", "torch.optim.SGD.momentum=-1"], "torch.optim.SGD: Invalid momentum value: -1"),
        (["--lr", "Moun=1"], "Moun has a setting (lr) but is not among the optimizers: torch.optim.SGD"),
        (["--width", "100", "--heads", "3"], "width (100) must be a multiple of heads (3)"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--optimizers", "torch.optim.SGD", *arguments])
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert message in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_unreadable_text_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--optimizers", "torch.optim.SGD", "--text", str(tmp_path / "absent.txt"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "absent.txt: expected a readable text file" in shown.err and shown.err.count("\n") == 1


def test_an_unusable_output_folder_is_one_sentence(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--optimizers", "torch.optim.SGD", "--text", str(text), "--out", str(text / "runs")]) == 1
    shown = capsys.readouterr()
    assert "text.txt" in shown.err and shown.err.count("\n") == 1


def test_help_has_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.gpt2", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "python -m examples.gpt2 --optimizers" in done.stdout
