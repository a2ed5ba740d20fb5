"""Runs of the GPT-2 driver that are killed, damaged, spread over processes: what was there goes on, bit by bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.gpt2 import run
from examples.gpt2.checkpoints import CheckpointError, find_checkpoints, read_checkpoint
from examples.gpt2.config import DataConfig, LoopConfig, ModelConfig, OptimizerConfig, RunConfig
from examples.gpt2.logs import CONFIG_FILE, LOG_FILE, Run, read_last_step, read_run, write_config_file
from examples.gpt2.optimizers import tuned_config
from examples.gpt2.processes import Processes
from examples.gpt2.run import RunError

ROOT = Path(__file__).parents[2]
ALONE = Processes(torch.device("cpu"))
MODEL = ModelConfig(context=16, layers=1, width=16, heads=1, dropout=0.1)
LOOP = LoopConfig(steps=12, batch=4, validate_every=4, validation_batches=2, checkpoint_every=3)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    return path


def config_for(text: Path, optimizer: OptimizerConfig | None = None, loop: LoopConfig = LOOP) -> RunConfig:
    return RunConfig(optimizer or tuned_config("NAMO"), MODEL, DataConfig(str(text)), loop)


def run_in(folder: Path, config: RunConfig) -> Run:
    run.run(config, folder, ALONE, cache=folder.parent / "cache")
    return read_run(folder)


def losses(found: Run) -> list[tuple[int, float]]:
    return [(r.step, r.loss) for r in found.steps] + [(-r.step, r.loss) for r in found.validations]


class Stop(Exception):
    """Ends a run in the middle."""


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a run ends with ``Stop`` right after its log was told of this step."""
    write = run.RunLog.on_step

    def write_and_stop(log: run.RunLog, record: run.StepRecord) -> None:
        write(log, record)
        if record.step == step:
            raise Stop

    monkeypatch.setattr(run.RunLog, "on_step", write_and_stop)


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NAMO", "Muon", "SophiaG", "torch.optim.AdamW"])
@pytest.mark.parametrize("last", [2, 3, 7])
def test_an_interrupted_run_goes_on_bitwise(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, name: str, last: int
) -> None:
    config = config_for(text, replace(tuned_config(name), lr=0.01), replace(LOOP, curvature_every=2))
    whole = run_in(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        stop_after(last, patch)
        with pytest.raises(Stop):
            run_in(tmp_path / "parts", config)
    parts = run_in(tmp_path / "parts", config)
    assert losses(parts) == losses(whole)
    assert parts.resumed == ((6,) if last == 7 else ())  # the log hears of step 3 before its checkpoint is written
    ends = [read_checkpoint(find_checkpoints(tmp_path / each)[-1]) for each in ("whole", "parts")]
    assert all(torch.equal(ends[0].model[key], ends[1].model[key]) for key in ends[0].model)


def test_the_last_two_checkpoints_stay(tmp_path: Path, text: Path) -> None:
    run_in(tmp_path / "run", config_for(text))
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == [
        "checkpoint-00000009.pt",
        "checkpoint-00000012.pt",
    ]
    assert not list((tmp_path / "run").glob("*.new"))


@pytest.mark.wide
@pytest.mark.parametrize("moment", range(3))
def test_a_killed_run_goes_on_bitwise(tmp_path: Path, text: Path, moment: int) -> None:
    """kill -9 at random moments, several times, until the run is done."""
    loop = replace(LOOP, steps=60, checkpoint_every=2, validate_every=20)
    config = config_for(text, loop=loop)
    whole = run_in(tmp_path / "whole", config)
    folder = tmp_path / "killed"
    folder.mkdir()
    write_config_file(folder, config)
    dice = random.Random(moment)
    kills = 0
    for _ in range(4):
        child = start(folder)
        seen = len_of(folder)
        while child.poll() is None and len_of(folder) <= seen:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.15))
        kills += child.poll() is None
        child.kill()
        child.wait()
    assert kills, "the run was over before it could be killed"
    assert start(folder).wait() == 0
    killed = read_run(folder)
    assert losses(killed) == losses(whole)
    assert killed.resumed


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "examples.gpt2", "train", "--config", str(folder / CONFIG_FILE)]
    command += ["--out", str(folder), "--cache", str(folder.parent / "cache")]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def len_of(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


def test_how_far_a_run_has_come_can_be_seen(tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "run"
    assert read_last_step(folder) is None
    found = run_in(folder, config_for(text))
    assert read_last_step(folder) == found.steps[-1]
    log = folder / LOG_FILE
    lines = log.read_text().splitlines(keepends=True)
    torn = next(i for i, line in enumerate(lines) if '"step": 9' in line)
    log.write_text("".join(lines[:torn]) + lines[torn][:40])
    assert read_last_step(folder) == found.steps[7]


# -- what cannot go on -------------------------------------------------------------------------------------------------


def interrupted(folder: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch, after: int = 7) -> None:
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        with pytest.raises(Stop):
            run_in(folder, config)


def test_a_changed_configuration_is_refused(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = config_for(text), tmp_path / "run"
    interrupted(folder, config, monkeypatch)
    before = [path.read_bytes() for path in find_checkpoints(folder)]
    with pytest.raises(RunError, match=r"run holds another run \(loop\.batch was 4, is 8\): choose another folder"):
        run_in(folder, replace(config, loop=replace(LOOP, batch=8)))
    assert [path.read_bytes() for path in find_checkpoints(folder)] == before


def test_changed_data_is_refused(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = config_for(text), tmp_path / "run"
    interrupted(folder, config, monkeypatch)
    text.write_text(text.read_text().upper())
    with pytest.raises(RunError, match=r"text\.txt is not what it was when the checkpoint of step 6 was written"):
        run_in(folder, config)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    """One bit in the middle of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def replace_by_code(path: Path) -> None:
    class Danger:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return print, ("the checkpoint ran code",)

    torch.save({"format": 1, "step": Danger()}, path)


def replace_by_other(path: Path) -> None:
    torch.save({"format": 99}, path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, replace_by_code, replace_by_other])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    config, folder = config_for(text), tmp_path / "run"
    whole = run_in(tmp_path / "whole", config)
    interrupted(folder, config, monkeypatch)
    older, newest = find_checkpoints(folder)
    damage(newest)
    with pytest.raises(CheckpointError) as caught:
        run_in(folder, config)
    told = str(caught.value)
    assert told.startswith(f"{newest}: expected a ") and told.endswith(f"remove it to continue from {older.name}")
    assert "\n" not in told and "ran code" not in capsys.readouterr().out
    newest.unlink()
    assert losses(run_in(folder, config)) == losses(whole)


@pytest.mark.wide  # starts Python anew
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, text: Path) -> None:
    """A limit on the size of files stands for the disk: the same error comes from the system in the same place."""
    config, folder = config_for(text), tmp_path / "run"
    folder.mkdir()
    write_config_file(folder, config)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert "checkpoint-00000006.pt could not be written: File too large" in last
    assert last.endswith(f"the last good checkpoint is {folder / 'checkpoint-00000003.pt'}")
    assert read_checkpoint(folder / "checkpoint-00000003.pt").step == 3
    assert not list(folder.glob("*.new"))
    assert losses(run_in(folder, config)) == losses(run_in(tmp_path / "whole", config))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from examples.gpt2 import run
from examples.gpt2.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write = run.write_checkpoint
def write_and_fill(folder, checkpoint):
    if checkpoint.step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return write(folder, checkpoint)
run.write_checkpoint = write_and_fill
folder = sys.argv[1]
sys.exit(main(["train", "--config", folder + "/config.json", "--out", folder, "--cache", folder + "/cache"]))
"""


def test_nan_weights_are_never_kept(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that makes the weights NaN is the one before a checkpoint: its loss is still finite."""
    config, folder = config_for(text, OptimizerConfig("torch.optim.SGD", lr=0.1)), tmp_path / "run"
    step = torch.optim.SGD.step
    taken = []

    def broken_step(self: torch.optim.SGD) -> None:
        step(self)
        taken.append(1)
        if len(taken) == 6:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.SGD, "step", broken_step)
    found = run_in(folder, config)
    assert found.result and found.result.diverged
    assert [path.name for path in find_checkpoints(folder)] == ["checkpoint-00000003.pt"]
    assert all(value.isfinite().all() for value in read_checkpoint(find_checkpoints(folder)[0]).model.values())


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize("name", ["NAMO", "Muon", "SophiaG", "torch.optim.AdamW"])
def test_processes_together_do_what_one_does(tmp_path: Path, text: Path, name: str) -> None:
    """Two processes with the same global batch: the same losses to 1e-5, the same weights, one log."""
    loop = replace(LOOP, steps=10, batch=8, curvature_every=3)
    config = replace(config_for(text, replace(tuned_config(name), lr=0.01), loop), model=replace(MODEL, dropout=0.0))
    alone, folder = run_in(tmp_path / "alone", config), tmp_path / "together"
    folder.mkdir()
    write_config_file(folder, config)
    torchrun(folder, 2)
    together = read_run(folder)
    for (step, mine), (other, theirs) in zip(losses(together), losses(alone), strict=True):
        assert step == other and mine == pytest.approx(theirs, abs=1e-5)
    assert together.header.machine["processes"] == 2


def torchrun(folder: Path, processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "examples.gpt2", "train", "--config", str(folder / CONFIG_FILE), "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--cache", str(folder.parent / "cache")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_batch_that_processes_cannot_share_is_refused(text: Path, tmp_path: Path) -> None:
    processes = Processes(torch.device("cpu"), rank=0, world=3)
    with pytest.raises(RunError, match="a batch of 4 cannot be shared by 3 processes"):
        run.require_shares(config_for(text), processes)
