"""The verdict on GPT-2 runs: logs, statistics, wording, page and pictures, and the grid of runs that leads to it.

The runs are synthetic: their curves are formulas, written by the code that logs real ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.gpt2.compare import Grid, GridError, compare, plan_cells, prepare, run_cells
from examples.gpt2.config import LoopConfig, OptimizerConfig, RunConfig, write_config
from examples.gpt2.folders import FolderError
from examples.gpt2.logs import (
    LogError,
    ResultRecord,
    RunLog,
    RunRecord,
    StepRecord,
    TelemetryRecord,
    ValidationRecord,
    is_done,
    read_run,
    summarize,
)
from examples.gpt2.verdict.entries import VerdictError
from examples.gpt2.verdict.judge import (
    Method,
    Point,
    Rate,
    Verdict,
    choose_best,
    find_edge,
    first_reaching,
    judge,
    overlap,
)
from examples.gpt2.verdict.numbers import collect_numbers
from examples.gpt2.verdict.report import Comparison, render_page, write_comparison, write_verdict
from examples.gpt2.verdict.sentences import word
from tests.examples.browser import console_of, open_browser, open_page

ROOT = Path(__file__).parents[2]
TOKENS_PER_STEP = 64
STEPS = 40


@dataclass(frozen=True)
class Fake:
    """A made-up optimizer: where its loss ends at its best rate, how fast it gets there, what it costs."""

    name: str
    final: float
    best_lr: float
    optimizer_s: float = 0.01
    state_bytes: int = 1_000_000
    spec: str | None = None


ADAMW = Fake("AdamW", final=1.60, best_lr=2e-3, optimizer_s=0.004)
MUON = Fake("Muon", final=1.50, best_lr=2e-2, optimizer_s=0.02, state_bytes=500_000)


def make_config(fake: Fake, lr: float, seed: int, steps: int = STEPS) -> RunConfig:
    return RunConfig(OptimizerConfig(fake.name, lr=lr), loop=LoopConfig(steps=steps, seed=seed, validate_every=8))


def make_header(fake: Fake, config: RunConfig) -> RunRecord:
    machine, versions = {"cpu": "synthetic", "threads": 1}, {"torch": "0.0"}
    return RunRecord(fake.name, config, fake.spec, 1000, TOKENS_PER_STEP, "byte", "test text", machine, versions)


def loss_at(fake: Fake, lr: float, seed: int, share: float) -> float:
    """Falls from 5.5 at the start to a loss that grows with the distance from the best rate, and a little by seed."""
    end = fake.final + 0.03 * math.log2(lr / fake.best_lr) ** 2 + 0.004 * (seed - 1)
    return end + (5.5 - end) * math.exp(-6 * share) * (1 - share)


def write_run(
    folder: Path, fake: Fake, lr: float, seed: int = 0, *, until: int = STEPS, diverges_at: int = 0, steps: int = STEPS
) -> Path:
    """The log of a run that reached step ``until``, or whose loss is no number from ``diverges_at``."""
    config = make_config(fake, lr, seed, steps)
    home = folder / f"{fake.name.replace('/', '_')}-{lr:g}-{seed}"
    done: list[StepRecord] = []
    validations: list[ValidationRecord] = []
    step_s = 0.1 + fake.optimizer_s
    with RunLog.create(home, make_header(fake, config)) as log:
        for step in range(until + 1):
            loss = math.nan if diverges_at and step >= diverges_at else loss_at(fake, lr, seed, step / steps)
            if step:
                done.append(StepRecord(step, loss, lr, 1.0, 0.1, fake.optimizer_s, step * step_s))
                log.on_step(done[-1])
            if not math.isfinite(loss):
                break
            if step % 8 == 0:
                validations.append(ValidationRecord(step, loss, step * step_s))
                log.on_validation(validations[-1])
        if until == steps or diverges_at:
            log.write_result(
                summarize(done, validations, tokens_per_step=TOKENS_PER_STEP, optimizer_state_bytes=fake.state_bytes)
            )
    return home


def write_grid(folder: Path, *fakes: Fake, factors: tuple[float, ...] = (0.5, 1, 2), seeds: int = 3) -> None:
    for fake in fakes:
        for factor in factors:
            for seed in range(seeds):
                write_run(folder, fake, factor * fake.best_lr, seed)


def find_method(verdict: Verdict, label: str) -> Method:
    return next(method for method in verdict.methods if method.label == label)


# logs


def test_a_log_gives_back_what_was_written(tmp_path: Path) -> None:
    config = make_config(ADAMW, 1e-3, 0)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=1))
    header = make_header(dataclasses.replace(ADAMW, spec="optimizer A:\n"), config)
    header = dataclasses.replace(header, machine={"cpu": "synthetic", "gpu": None})
    telemetry = TelemetryRecord(1, {"blocks.0": {"step_rms": 0.25, "cosine": -0.5}})
    step, validation = StepRecord(1, 5.25, 1e-3, 2.0, 0.125, 0.5, 0.625), ValidationRecord(0, 5.5, 0.0)
    result = ResultRecord(5.5, 0.625, 0.8, 102.4, 0.625, 12, False)
    with RunLog.create(tmp_path / "run", header) as log:
        log.on_validation(validation)
        log.on_step(step)
        log.on_telemetry(telemetry)
        assert not is_done(tmp_path / "run")
        log.write_result(result)
    run = read_run(tmp_path / "run")
    assert (run.header, run.steps, run.validations) == (header, (step,), (validation,))
    assert (run.telemetry, run.resumed, run.result) == ((telemetry,), (), result)
    assert is_done(tmp_path / "run")


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    home = write_run(tmp_path, ADAMW, 1e-3, diverges_at=5)
    lines = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()]
    assert lines[-2]["loss"] is None and lines[-1]["final_validation_loss"] is None
    assert lines[-1]["diverged"] is True
    run = read_run(home)
    assert math.isnan(run.steps[-1].loss) and run.result and math.isnan(run.result.final_validation_loss)


def test_resuming_leaves_every_step_once(tmp_path: Path) -> None:
    home = write_run(tmp_path, ADAMW, 1e-3)
    whole = read_run(home)
    with RunLog.resume(home, 16) as log:
        for record in whole.steps[16:20]:
            log.on_step(record)
    run = read_run(home)
    assert [record.step for record in run.steps] == list(range(1, 21))
    assert [record.step for record in run.validations] == [0, 8, 16]
    assert run.resumed == (16,) and run.result is None and not is_done(home)
    RunLog.resume(home, 8).close()
    run = read_run(home)
    assert run.steps == whole.steps[:8] and run.resumed == (8,)


def test_a_finished_run_that_is_resumed_is_not_finished(tmp_path: Path) -> None:
    home = write_run(tmp_path, ADAMW, 1e-3)
    whole = read_run(home)
    RunLog.resume(home, STEPS).close()
    run = read_run(home)
    assert (run.steps, run.validations, run.result) == (whole.steps, whole.validations, None) and not is_done(home)


def test_every_line_may_be_torn(tmp_path: Path) -> None:
    home = write_run(tmp_path, ADAMW, 1e-3)
    content = (home / "log.jsonl").read_bytes()
    ends = [i for i, letter in enumerate(content) if letter == 10]
    for cut in range(ends[-2] + 1, len(content)):
        (home / "log.jsonl").write_bytes(content[:cut])
        assert read_run(home).result is None and not is_done(home)
    for cut in (ends[9] - 3, ends[9]):
        (home / "log.jsonl").write_bytes(content[:cut])
        steps = [record.step for record in read_run(home).steps]
        RunLog.resume(home, 100).close()
        run = read_run(home)
        assert [record.step for record in run.steps] == steps and run.resumed == (100,)


def test_killed_writers_leave_a_log_that_reads(tmp_path: Path) -> None:
    program = "import itertools\n" + FAKE_TRAINER.replace("range(1, STEPS + 1)", "itertools.count(1)")
    home = tmp_path / "run"
    home.mkdir()
    (home / "config.json").write_text(json.dumps(write_config(make_config(ADAMW, 1e-3, 0))))
    child = subprocess.Popen([sys.executable, "-c", program, str(home)], cwd=ROOT)
    _wait_for(lambda: (home / "log.jsonl").exists() and (home / "log.jsonl").stat().st_size > 50_000)
    child.kill()
    child.wait()
    steps = [record.step for record in read_run(home).steps]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 100


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: ["{", *lines], "line 1: expected a JSON object"),
        (lambda lines: lines[1:], "expected the settings of a run"),
        (lambda lines: [], "expected the settings of a run"),
        (lambda lines: [lines[0], "[1]", *lines[1:]], "line 2: expected an object with one of the kinds"),
        (lambda lines: [lines[0], '{"kind": "step", "step": 1}'], r"line 2 \(step\): expected exactly the fields step"),
        (lambda lines: [lines[0].replace('"seed": 0', '"sed": 0')], "unknown sed; missing seed"),
        (lambda lines: [lines[0].replace('"parameters": 1000', '"parameters": "x"')], "parameters: expected int"),
        (lambda lines: [lines[0].replace('"clip": 1.0', '"clip": "x"')], "could not convert"),
    ],
)
def test_a_damaged_log_is_named(tmp_path: Path, spoil: Callable[[list[str]], list[str]], message: str) -> None:
    home = write_run(tmp_path, ADAMW, 1e-3)
    lines = (home / "log.jsonl").read_text().splitlines()
    (home / "log.jsonl").write_text("".join(f"{line}\n" for line in spoil(lines)))
    with pytest.raises(LogError, match=message) as caught:
        read_run(home)
    assert str(home / "log.jsonl") in str(caught.value)
    with pytest.raises(LogError, match=r"log\.jsonl: expected the log of a run, but No such file"):
        read_run(tmp_path)


# statistics


def test_the_best_rate_has_the_lowest_mean(tmp_path: Path) -> None:
    write_grid(tmp_path, ADAMW, MUON)
    verdict = judge(tmp_path)
    assert [method.label for method in verdict.methods] == ["Muon", "AdamW"]
    for method, fake in zip(verdict.methods, (MUON, ADAMW), strict=True):
        assert method.best and method.best.lr == fake.best_lr and method.edge is None
        finals = [loss_at(fake, fake.best_lr, seed, 1.0) for seed in range(3)]
        assert method.best.finals == tuple(enumerate(finals))
        assert method.best.mean == statistics.fmean(finals) and method.best.deviation == statistics.stdev(finals)
        assert method.cost and method.cost.optimizer_s == fake.optimizer_s
        assert method.cost.optimizer_share == pytest.approx(fake.optimizer_s / (0.1 + fake.optimizer_s), rel=1e-12)
        assert method.cost.state_bytes == fake.state_bytes
    assert verdict.ranges == "factors" and verdict.target == find_method(verdict, "AdamW").best.mean


def test_the_baseline_is_reached_on_the_straight_line_between_validations() -> None:
    curve = [Point(0, 0, 0.0, 5.0), Point(10, 100, 2.0, 3.0), Point(20, 200, 6.0, 2.0), Point(30, 300, 7.0, 1.0)]
    assert first_reaching(curve, 2.25) == Point(17.5, 175.0, 5.0, 2.25)
    assert first_reaching(curve, 3.0) == Point(10, 100, 2.0, 3.0)
    assert first_reaching(curve, 1.0) == curve[-1]
    assert first_reaching(curve, 0.5) is None and first_reaching([], 0.5) is None
    assert first_reaching(curve, 9.0) == curve[0]


def test_the_baseline_reaches_its_own_loss_at_its_end(tmp_path: Path) -> None:
    write_grid(tmp_path, ADAMW, MUON)
    verdict = judge(tmp_path)
    assert verdict.baseline and verdict.baseline.reach == verdict.baseline.curve[-1]
    muon = find_method(verdict, "Muon")
    before = max(point for point in (p.step for p in muon.curve) if point <= muon.reach.step)
    assert before < muon.reach.step < before + 8 and muon.reach.step < STEPS
    assert muon.reach.seconds == pytest.approx(muon.reach.step * (0.1 + MUON.optimizer_s), rel=1e-12)
    assert muon.reach.tokens == pytest.approx(muon.reach.step * TOKENS_PER_STEP, rel=1e-12)


RATES = {lr: Rate(lr, ((0, lr), (1, lr))) for lr in (1.0, 2.0, 3.0)}


def test_edges_are_those_of_what_was_tried() -> None:
    low, middle, high = RATES.values()
    assert find_edge([low, middle, high], low) == "low"
    assert find_edge([low, middle, high], high) == "high"
    assert find_edge([low, middle, high], middle) is None
    assert find_edge([low], low) == "single"
    assert find_edge([low, middle, Rate(3.0, diverged=(0,))], middle) is None, "divergence bounds a range"
    assert find_edge([low, middle, Rate(3.0, pending=(0,))], middle) == "high", "what did not run does not"


def test_a_rate_at_which_a_run_diverged_is_not_chosen() -> None:
    risky = Rate(0.5, ((0, 0.1),), diverged=(1,))
    assert choose_best([risky, RATES[2.0]]) == RATES[2.0]
    assert choose_best([risky]) is None and choose_best([]) is None


def test_uneven_rates_are_compared_by_the_seeds_that_all_have() -> None:
    lucky = Rate(1.0, ((0, 1.2),))
    thorough = Rate(2.0, ((0, 1.1), (1, 1.6)))
    assert choose_best([lucky, thorough]) == thorough


def test_an_order_is_decided_only_by_ranges_apart() -> None:
    def rate(*losses: float) -> Rate:
        return Rate(1.0, tuple(enumerate(losses)))

    assert overlap(rate(1.0, 1.2), rate(1.1, 1.3))
    assert overlap(rate(1.0, 1.4), rate(1.1, 1.2))
    assert not overlap(rate(1.0, 1.2), rate(1.3, 1.4))
    assert overlap(rate(1.0), rate(2.0)), "one seed says nothing of the spread"


def test_learning_rate_ranges_are_compared(tmp_path: Path) -> None:
    write_grid(tmp_path / "same", ADAMW, dataclasses.replace(MUON, best_lr=ADAMW.best_lr), seeds=1)
    assert judge(tmp_path / "same").ranges == "equal"
    write_grid(tmp_path / "more", ADAMW, seeds=1)
    write_grid(tmp_path / "more", MUON, factors=(0.5, 1), seeds=1)
    assert judge(tmp_path / "more").ranges == "unequal"
    write_grid(tmp_path / "wider", ADAMW, seeds=1)
    write_grid(tmp_path / "wider", MUON, factors=(0.1, 1, 2), seeds=1)
    assert judge(tmp_path / "wider").ranges == "unequal"
    write_grid(tmp_path / "none", ADAMW, MUON, factors=(1,), seeds=1)
    assert judge(tmp_path / "none").ranges == "single"


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="expected the folders of runs"):
        judge(tmp_path)
    write_run(tmp_path, ADAMW, 1e-3)
    write_run(tmp_path, MUON, 1e-3, steps=48, until=48)
    with pytest.raises(VerdictError, match=r"Muon-0\.001-0 cannot be compared .*: loop\.steps was 40, is 48;"):
        judge(tmp_path)
    write_run(tmp_path / "twice", ADAMW, 1e-3)
    write_run(tmp_path / "twice" / "again", ADAMW, 1e-3)
    with pytest.raises(VerdictError, match=r"are both AdamW with lr 0\.001 and seed 0"):
        judge(tmp_path / "twice")


def test_variants_of_one_optimizer_are_told_apart(tmp_path: Path) -> None:
    for decay in (0.0, 0.1):
        optimizer = OptimizerConfig("specs/nora.opt", lr=0.1, options={"weight_decay": decay, "beta": 0.9})
        config = RunConfig(optimizer, loop=LoopConfig(steps=STEPS))
        RunLog.create(tmp_path / str(decay), make_header(ADAMW, config)).close()
    write_run(tmp_path, dataclasses.replace(ADAMW, name="torch.optim.AdamW"), 1e-3)
    write_run(tmp_path, MUON, 1e-3)
    for config_file in (tmp_path / "0.0", tmp_path / "0.1"):
        content = json.loads((config_file / "config.json").read_text())
        content["loop"]["validate_every"] = 8
        (config_file / "config.json").write_text(json.dumps(content))
    verdict = judge(tmp_path)
    labels = {"nora weight_decay=0.0", "nora weight_decay=0.1", "torch.optim.AdamW", "Muon"}
    assert {method.label for method in verdict.methods} == labels
    assert verdict.baseline and verdict.baseline.label == "torch.optim.AdamW"


# wording


def test_a_clear_order_is_said_and_an_open_one_too(tmp_path: Path) -> None:
    write_grid(tmp_path / "clear", ADAMW, MUON)
    clear = word(judge(tmp_path / "clear"))
    assert clear.headline == "Muon reaches the lowest validation loss"
    assert "0.1000 below AdamW" in clear.findings[0] and "of AdamW's steps" in clear.findings[1]
    assert not any("overlap" in caution for caution in clear.cautions)
    assert any("by chance once in 10 comparisons" in caution for caution in clear.cautions)
    write_grid(tmp_path / "open", ADAMW, MUON, dataclasses.replace(MUON, name="NAMO", final=1.503))
    unsure = word(judge(tmp_path / "open"))
    assert unsure.headline == "Muon and NAMO lead; their order is not decided"
    assert "The final losses of Muon and NAMO overlap: with these seeds their order is not decided." in unsure.cautions
    write_grid(tmp_path / "one", ADAMW, MUON, seeds=1)
    single = word(judge(tmp_path / "one"))
    assert single.headline == "Muon is ahead, but the order is not decided"
    assert any("one seed only" in caution for caution in single.cautions)


def test_what_weakens_a_verdict_is_said(tmp_path: Path) -> None:
    write_grid(tmp_path, ADAMW, factors=(1, 2), seeds=2)
    write_grid(tmp_path, MUON, factors=(0.5, 1), seeds=2)
    write_run(tmp_path, MUON, 0.08, 0, diverges_at=13)
    write_run(tmp_path, MUON, 0.08, 1, until=20)
    cautions = word(judge(tmp_path), jobs=2).cautions
    expected = (
        "AdamW: the best learning rate (0.002) is the lowest that was tried, so a lower one may be better.",
        "The learning rates tried are not equally many",
        "1 run diverged: Muon at 0.08, seed 0 (step 13).",
        "1 run not finished: Muon at 0.08, seed 1.",
        "2 runs shared the machine at a time",
    )
    for sentence in expected:
        assert any(caution.startswith(sentence) for caution in cautions), sentence
    assert not any(caution.startswith("Muon: the best") for caution in cautions)
    lonely = word(judge(tmp_path, baseline="SGD"))
    assert any("No method is called SGD" in caution for caution in lonely.cautions)
    write_run(tmp_path / "begun", ADAMW, 1e-3, until=10)
    assert word(judge(tmp_path / "begun")).headline == "No run has finished yet"


# page and pictures


def test_the_page_holds_the_numbers_of_the_logs(tmp_path: Path) -> None:
    write_grid(tmp_path, ADAMW, MUON, seeds=2)
    verdict = write_verdict(tmp_path)
    page = (tmp_path / "verdict.html").read_text()
    start = page.index(">", page.index('id="numbers"')) + 1
    numbers = json.loads(page[start : page.index("</script>", start)])
    assert numbers == json.loads(json.dumps(collect_numbers(verdict)))
    assert len(numbers["runs"]) == 12
    for content in numbers["runs"]:
        run = read_run(tmp_path / content["folder"])
        assert content["result"] == dataclasses.asdict(run.result)
        assert content["validations"] == [[r.step, r.loss, r.elapsed_s] for r in run.validations]


def test_the_page_loads_nothing_and_escapes_what_it_shows(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    write_run(tmp_path, dataclasses.replace(ADAMW, spec=bad, name=f"a{bad}.X"), 1e-3)
    write_comparison(tmp_path, Comparison(f"python {bad}", 2))
    write_verdict(tmp_path)
    page = (tmp_path / "verdict.html").read_text()
    assert bad not in page and page.count("<script") == 3
    for loading in ("http:", "https:", "src=", "@import", 'url("', "fetch("):
        assert loading not in page.replace("http://www.w3.org/2000/svg", ""), loading


def test_an_unfinished_comparison_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, ADAMW, 1e-3, until=10)
    write_run(tmp_path, MUON, 1e-3, diverges_at=1)
    config = prepare(Grid(make_config(ADAMW, 0.0, 0), (OptimizerConfig("Lion", lr=1.0),), seeds=(0,)), tmp_path)
    page = render_page(judge(tmp_path), Comparison())
    assert "No run has finished yet" in page and "not started" in page and config[0].name in page
    assert "python -m examples.gpt2 train --config" in page
    write_verdict(tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_there_is_a_picture_of_everything(tmp_path: Path) -> None:
    write_grid(tmp_path, ADAMW, MUON, factors=(0.5, 1), seeds=2)
    write_run(tmp_path, MUON, 0.2, diverges_at=9)
    write_verdict(tmp_path)
    names = {"loss-steps", "loss-tokens", "loss-seconds", "lr-sensitivity", "final-loss", "time-to-baseline"}
    pictures = {path.stem: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(pictures) == names | {"optimizer-cost"}
    assert all(content.startswith(b"\x89PNG") and len(content) > 10_000 for content in pictures.values())


# the grid


FAKE_TRAINER = """
import json, math, os, sys, time
from pathlib import Path
from examples.gpt2.config import read_config
from examples.gpt2.folders import holding
from examples.gpt2.logs import RunLog, RunRecord, StepRecord, ValidationRecord, summarize
home = Path(sys.argv[1])
config = read_config(json.loads((home / "config.json").read_text()))
STEPS, lr = config.loop.steps, config.optimizer.lr
if config.optimizer.name == "Broken":
    sys.exit("Broken: this one always fails")
(home / "starts").open("a").write("x")
(home / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
header = RunRecord(config.optimizer.name, config, None, 10, 4, "byte", "test text")
steps, validations = [], [ValidationRecord(0, 5.0, 0.0)]
with holding(home), RunLog.create(home, header) as log:
    log.on_validation(validations[0])
    for step in range(1, STEPS + 1):
        steps.append(StepRecord(step, 5.0 - step / 100, lr, 1.0, 0.1, 0.01, step * 0.11))
        log.on_step(steps[-1])
        time.sleep(30 if config.optimizer.name == "Slow" else 0)
    validations.append(ValidationRecord(STEPS, 1.0 + lr + config.loop.seed / 100, STEPS * 0.11))
    log.on_validation(validations[-1])
    log.write_result(summarize(steps, validations, tokens_per_step=4, optimizer_state_bytes=8))
"""


def fake_trainer(home: Path) -> list[str]:
    return [sys.executable, "-c", FAKE_TRAINER, str(home)]


def make_grid(*names: str, seeds: tuple[int, ...] = (0,), factors: tuple[float, ...] = (1.0, 2.0)) -> Grid:
    base = RunConfig(OptimizerConfig("base"), loop=LoopConfig(steps=5))
    return Grid(base, tuple(OptimizerConfig(name, lr=0.1) for name in names), factors=factors, seeds=seeds)


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_every_method_gets_the_same_factors() -> None:
    optimizers = (OptimizerConfig("A", lr=0.1, rest_lr=0.003), OptimizerConfig("specs/b.opt", lr=2.0))
    base = RunConfig(OptimizerConfig("base"), loop=LoopConfig(steps=7, seed=9))
    cells = plan_cells(Grid(base, optimizers, factors=(0.5, 3.0), seeds=(4, 5)))
    rates = [(cell.config.optimizer.lr, cell.config.optimizer.rest_lr) for cell in cells]
    assert rates == [(0.05, 0.0015), (0.3, 0.009), (1.0, None), (6.0, None)] * 2
    assert [cell.config.loop.seed for cell in cells] == [4] * 4 + [5] * 4
    assert all(dataclasses.replace(cell.config.loop, seed=9) == base.loop for cell in cells)
    assert cells[0].name == "A-lr0.05-seed4" and cells[2].name == "b-lr1-seed4"


def test_or_the_same_rates() -> None:
    optimizers = (OptimizerConfig("A", rest_lr=0.003), OptimizerConfig("A", options={"beta": 0.5}))
    cells = plan_cells(Grid(RunConfig(OptimizerConfig("")), optimizers, rates=(0.5, 3.0), seeds=(0,)))
    assert [cell.config.optimizer.lr for cell in cells] == [0.5, 3.0] * 2
    assert [cell.config.optimizer.rest_lr for cell in cells] == [0.003, 0.003, None, None]
    assert len({cell.name for cell in cells}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": ()}, "at least one of its optimizers"),
        ({"seeds": (1, 1)}, "seeds and none twice"),
        ({"factors": ()}, "at least one of its rates"),
        ({"optimizers": (OptimizerConfig("Lion"),)}, "Lion: expected a learning rate for the factors to multiply"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(GridError, match=message):
        plan_cells(dataclasses.replace(make_grid("A"), **change))


def test_a_comparison_runs_every_cell_once_and_judges(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid = make_grid("AdamW", "Broken")
    verdict, outcomes = compare(grid, tmp_path, jobs=2, threads=6, trainer=fake_trainer, command="the command")
    assert [(str(each.cell), each.done) for each in sorted(outcomes, key=lambda each: each.cell.name)] == [
        ("AdamW at 0.1, seed 0", True),
        ("AdamW at 0.2, seed 0", True),
        ("Broken at 0.1, seed 0", False),
        ("Broken at 0.2, seed 0", False),
    ]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 4
    assert any(line.startswith("AdamW at 0.2, seed 0: validation loss 1.2000, ") for line in lines)
    failed = "Broken at 0.1, seed 0: failed (exit code 1: Broken: this one always fails); its output is in "
    assert any(line.startswith(failed) for line in lines)
    assert (tmp_path / "AdamW-lr0.1-seed0" / "threads").read_text() == "3"
    assert find_method(verdict, "AdamW").best.lr == 0.1
    assert "the command" in (tmp_path / "verdict.html").read_text()

    more = dataclasses.replace(grid, optimizers=grid.optimizers[:1], seeds=(0, 1))
    verdict, outcomes = compare(more, tmp_path, trainer=fake_trainer)
    assert [str(each.cell) for each in outcomes] == ["AdamW at 0.1, seed 1", "AdamW at 0.2, seed 1"]
    assert (tmp_path / "AdamW-lr0.1-seed0" / "starts").read_text() == "x"
    assert find_method(verdict, "AdamW").best.mean == pytest.approx(1.105, abs=1e-12)


def test_a_folder_of_other_runs_is_refused(tmp_path: Path) -> None:
    prepare(make_grid("A"), tmp_path)
    other = make_grid("A")
    other = dataclasses.replace(other, base=dataclasses.replace(other.base, loop=LoopConfig(steps=6)))
    with pytest.raises(GridError, match=r"A-lr0\.1-seed0 holds a run with other settings: loop\.steps was 5, is 6;"):
        prepare(other, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interruption_ends_the_children_and_the_rest_goes_on_later(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.examples.test_gpt2_verdict import *\n"
        "run_cells(prepare(make_grid('Slow'), Path(sys.argv[1])), Path(sys.argv[1]), jobs=2, trainer=fake_trainer)\n"
    )
    cells = plan_cells(make_grid("Slow"))
    homes = [tmp_path / cell.name for cell in cells]
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for(lambda: all((home / "log.jsonl").exists() and read_lines(home) > 1 for home in homes))
        with pytest.raises(FolderError, match=r"process \d+ on .* is still training this run"):
            run_cells(cells, tmp_path, trainer=quick_trainer)
    finally:
        parent.send_signal(number)
        errors = parent.communicate(timeout=30)[1]
    assert "KeyboardInterrupt" in errors and not any(is_done(home) for home in homes)
    outcomes = run_cells(cells, tmp_path, jobs=2, trainer=quick_trainer)
    assert [outcome.done for outcome in outcomes] == [True, True] and all(map(is_done, homes))


def quick_trainer(home: Path) -> list[str]:
    return [sys.executable, "-c", FAKE_TRAINER.replace("30 if", "0 if"), str(home)]


def read_lines(home: Path) -> int:
    return (home / "log.jsonl").read_bytes().count(b"\n")


# the page in a browser

CHARTS = ("loss", "lr", "final", "reach", "cost")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Verdict]]:
    """The page of a comparison in a browser, one run of which diverged, and the verdict that it shows."""
    folder = tmp_path_factory.mktemp("verdict")
    with open_browser() as driver:
        write_grid(folder, ADAMW, MUON, dataclasses.replace(MUON, name="NAMO", final=1.52), seeds=2)
        write_run(folder, MUON, 0.08, 0, diverges_at=9)
        verdict = write_verdict(folder)
        open_page(driver, folder / "verdict.html")
        yield driver, verdict


def visible_paths(driver: Any, chart: str, method: str = "") -> int:
    """How many paths of a chart, or of one method in it, have a size and ink."""
    group = f'[data-method="{method}"] ' if method else ""
    return driver.execute_script(
        """return [...document.querySelectorAll(arguments[0])].filter((path) => {
            const box = path.getBoundingClientRect(), look = getComputedStyle(path);
            const ink = look.fill !== "none" || look.stroke !== "none";
            return (box.width > 0 || box.height > 0) && ink && look.visibility === "visible" && look.opacity > 0;
        }).length""",
        f"#chart-{chart} svg {group}path",
    )


def cell_of(driver: Any, selector: str, field: str) -> tuple[float, str]:
    """The exact value and the text of a number in a table."""
    cell = driver.find_element("css selector", f'{selector} [data-field="{field}"]')
    return float(cell.get_attribute("data-value")), cell.get_attribute("textContent")


@pytest.mark.peers
def test_the_page_opens_without_a_network_and_without_errors(shown: tuple[Any, Verdict]) -> None:
    driver, _ = shown
    driver.refresh()
    assert console_of(driver) == []
    assert driver.find_element("css selector", "h1").text == "Muon reaches the lowest validation loss"
    assert not driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    driver.execute_script("console.error('noticed')")
    assert any("noticed" in line for line in console_of(driver)), "errors would be seen"


@pytest.mark.peers
def test_every_chart_is_drawn_for_every_method(shown: tuple[Any, Verdict]) -> None:
    driver, verdict = shown
    driver.refresh()
    for chart in CHARTS:
        for method in verdict.methods:
            assert visible_paths(driver, chart, method.label) >= 1, f"{chart}, {method.label}"
    for axis, unit in ((2, "seconds of training"), (1, "tokens"), (0, "steps")):
        driver.find_element("css selector", f'[data-axis="{axis}"]').click()
        end, names = driver.execute_script(
            """const curve = document.querySelector('#chart-loss [data-method="AdamW"] .curve');
            const svg = curve.closest("svg"), box = svg.querySelector(".hit").getBBox();
            const end = curve.getPointAtLength(curve.getTotalLength());
            return [(end.x - box.x) / box.width, [...svg.querySelectorAll(".axis")].map((each) => each.textContent)]"""
        )
        expected = (0.1 + ADAMW.optimizer_s) / (0.1 + MUON.optimizer_s) if axis == 2 else 1.0
        assert end == pytest.approx(expected, abs=1e-3) and unit in names, unit
    assert console_of(driver) == []


@pytest.mark.peers
def test_the_numbers_shown_are_those_of_the_logs(shown: tuple[Any, Verdict]) -> None:
    driver, verdict = shown
    driver.refresh()
    for fake in (ADAMW, MUON):
        runs = [read_run(verdict.folder / f"{fake.name}-{fake.best_lr:g}-{seed}") for seed in range(2)]
        results = [run.result for run in runs if run.result]
        row = f'#results tr[data-method="{fake.name}"]'
        mean = statistics.fmean(result.final_validation_loss for result in results)
        value, text = cell_of(driver, row, "mean")
        assert value == mean and text.startswith(f"{mean:.4f}")
        assert cell_of(driver, row, "lr")[0] == fake.best_lr
        assert cell_of(driver, row, "optimizer_s") == (fake.optimizer_s, f"{1000 * fake.optimizer_s:g} ms")
        assert cell_of(driver, row, "state_bytes")[0] == results[0].optimizer_state_bytes
        assert cell_of(driver, row, "optimizer_share")[0] == statistics.median(r.optimizer_share for r in results)
        drawn = driver.find_elements("css selector", f'#chart-final [data-method="{fake.name}"] .value')
        assert [each.text for each in drawn] == [f"{mean:.4f}"]
    for entry in verdict.entries:
        run = read_run(entry.folder)
        row = f'#runs tr[data-run="{entry.folder.name}"]'
        final = driver.find_element("css selector", f'{row} [data-field="final_validation_loss"]')
        assert run.result
        if run.result.diverged:
            assert final.get_attribute("data-value") == "" and entry.status == "diverged"
        else:
            assert float(final.get_attribute("data-value")) == run.result.final_validation_loss
            assert final.get_attribute("textContent") == f"{run.result.final_validation_loss:.4f}"
        assert cell_of(driver, row, "training_s")[0] == run.steps[-1].elapsed_s
        config = driver.find_element("css selector", f"{row} details.config code").get_attribute("textContent")
        assert json.loads(config) == json.loads((entry.folder / "config.json").read_text())


@pytest.mark.peers
def test_a_method_can_be_switched_off_and_on(shown: tuple[Any, Verdict]) -> None:
    driver, _ = shown
    driver.refresh()
    button = driver.find_element("css selector", '[data-toggle="Muon"]')
    before = {chart: visible_paths(driver, chart, "Muon") for chart in CHARTS}
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    for chart in CHARTS:
        assert visible_paths(driver, chart, "Muon") == 0 and visible_paths(driver, chart, "AdamW") >= 1, chart
    button.click()
    assert {chart: visible_paths(driver, chart, "Muon") for chart in CHARTS} == before
    for other in driver.find_elements("css selector", "[data-toggle]"):
        other.click()
    assert all(visible_paths(driver, chart) == 0 for chart in CHARTS)
    assert console_of(driver) == []


@pytest.mark.peers
def test_tables_are_sorted_by_their_headings(shown: tuple[Any, Verdict]) -> None:
    driver, verdict = shown
    driver.refresh()

    def labels() -> list[str]:
        rows = driver.find_elements("css selector", "#results tbody tr")
        return [row.get_attribute("data-method") for row in rows]

    assert labels() == [method.label for method in verdict.methods] == ["Muon", "NAMO", "AdamW"]
    heading = driver.find_element("css selector", "#results thead th:nth-child(2) button")
    heading.click()
    assert labels() == ["AdamW", "Muon", "NAMO"]
    heading.click()
    assert labels()[-1] == "AdamW"
    driver.find_element("css selector", "#results thead th:nth-child(1) button").click()
    assert labels() == ["AdamW", "Muon", "NAMO"]


@pytest.mark.peers
def test_the_pointer_reads_the_loss_at_a_step(shown: tuple[Any, Verdict]) -> None:
    driver, verdict = shown
    driver.refresh()
    driver.execute_script(
        """const area = document.querySelector("#chart-loss .hit"), box = area.getBoundingClientRect();
        area.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 1, clientY: box.top + 20}));"""
    )
    text = driver.find_element("id", "tip").text
    assert text.startswith(f"{STEPS} steps")
    for method in verdict.methods:
        assert method.label in text and f"{method.curve[-1].loss:.4f}" in text
