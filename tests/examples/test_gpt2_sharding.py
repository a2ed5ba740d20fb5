"""Runs of the GPT-2 driver whose parameters lie on several processes: they train, and go on, as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from examples.gpt2 import run
from examples.gpt2.__main__ import main
from examples.gpt2.checkpoints import find_checkpoints, read_checkpoint
from examples.gpt2.config import ConfigError, DataConfig, LoopConfig, ModelConfig, RunConfig
from examples.gpt2.logs import CONFIG_FILE, LOG_FILE, CommunicationRecord, Run, RunLog, read_run, write_config_file
from examples.gpt2.optimizers import tuned_config
from examples.gpt2.processes import Processes, Sharding, find_mesh, form_mesh
from examples.gpt2.run import RunError
from examples.gpt2.verdict.judge import judge
from examples.gpt2.verdict.report import Comparison, render_page
from tests.support.ranks import Pool

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(context=16, layers=2, width=16, heads=1)
LOOP = LoopConfig(steps=6, batch=8, accumulate=2, validate_every=3, validation_batches=2, checkpoint_every=3)


def config_for(folder: Path, name: str, **loop: Any) -> RunConfig:
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    return RunConfig(replace(tuned_config(name), lr=0.01), MODEL, DataConfig(str(text)), replace(LOOP, **loop))


def run_in(folder: Path, config: RunConfig, processes: Processes | None = None) -> Run:
    run.run(config, folder, processes or Processes(torch.device("cpu")), cache=folder.parent / "cache")
    return read_run(folder)


def losses(found: Run) -> list[float]:
    """All losses, and the gradient's norms beside them."""
    steps = [value for record in found.steps for value in (record.loss, record.gradient_norm)]
    return [*steps, *(record.loss for record in found.validations)]


def forget_the_end(folder: Path) -> None:
    """Let the run in ``folder`` be one that was killed before it wrote its last checkpoint."""
    lines = (folder / LOG_FILE).read_text().splitlines(keepends=True)
    (folder / LOG_FILE).write_text("".join(lines[:-1]))
    find_checkpoints(folder)[-1].unlink()


@pytest.mark.wide
def test_shards_are_trained_as_one_process_trains_the_whole(tmp_path: Path) -> None:
    """Two processes with the same global batch: the losses of one, one log, and one process can go on."""
    config, folder = config_for(tmp_path, "NAMO", telemetry_every=2), tmp_path / "sharded"
    alone = run_in(tmp_path / "alone", config)
    folder.mkdir()
    write_config_file(folder, config)
    torchrun(folder, "--shard", "full")
    sharded = read_run(folder)
    assert losses(sharded) == pytest.approx(losses(alone), abs=1e-5)
    assert sharded.header.machine["mesh"] == "2"
    assert sharded.result and alone.result
    assert sharded.result.optimizer_state_bytes == alone.result.optimizer_state_bytes
    for mine, theirs in zip(sharded.telemetry, alone.telemetry, strict=True):
        for name, measures in theirs.layers.items():
            assert mine.layers[name] == pytest.approx(dict(measures), rel=1e-2, abs=1e-4), name
    # Half of each of the four matrices of a block goes to its owner, and an update of half comes back.
    halves = 2 * MODEL.layers * 12 * MODEL.width**2 // 2
    assert [record.step for record in sharded.communication] == [3, 6] and not alone.communication
    for record in sharded.communication:
        assert 4 * halves // 2 <= record.bytes < 4 * halves // 2 + 1000
        assert record.calls["all_to_all"] > 0
    forget_the_end(folder)
    assert losses(run_in(folder, config)) == pytest.approx(losses(alone), abs=1e-5)
    assert read_run(folder).resumed == (3,)


def torchrun(folder: Path, *more: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "examples.gpt2", "train", "--config", str(folder / CONFIG_FILE), "--out", str(folder), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--cache", str(folder.parent / "cache")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_on_rank(group: dist.ProcessGroup, mesh: tuple[int, ...], folder: Path, config: RunConfig) -> list[float]:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    return losses(run_in(folder, config, Processes(torch.device("cpu"), rank, world, form_mesh("cpu", mesh))))


@pytest.mark.wide
@pytest.mark.parametrize("name", ["NAMO", "SophiaG", "torch.optim.AdamW"])
def test_replicas_of_shards_go_on_where_one_process_was(tmp_path: Path, ranks: Pool, name: str) -> None:
    config, folder = config_for(tmp_path, name, curvature_every=2), tmp_path / "run"
    alone = run_in(folder, config)
    last = read_checkpoint(find_checkpoints(folder)[-1])
    forget_the_end(folder)
    for found in ranks.run(4, run_on_rank, (2, 2), folder, config):
        assert found == pytest.approx(losses(alone), abs=1e-5)
    assert read_run(folder).resumed == (3,)
    again = read_checkpoint(find_checkpoints(folder)[-1])
    assert {place: set(kept) for place, kept in again.optimizer["state"].items()} == {
        place: set(kept) for place, kept in last.optimizer["state"].items()
    }
    for key, value in last.model.items():
        assert type(again.model[key]) is torch.Tensor
        if name != "SophiaG" or not key.endswith("qkv.bias"):  # those of keys have gradients of rounding alone
            assert torch.allclose(again.model[key], value, atol=1e-5), key


def refusal_on_rank(group: dist.ProcessGroup, folder: Path, config: RunConfig) -> str:
    with pytest.raises(RunError) as problem:
        run_on_rank(group, (4,), folder, config)
    return str(problem.value)


@pytest.mark.parametrize(
    ("name", "batch", "message"),
    [
        (
            "SophiaH",
            8,
            "SophiaH wants products with the Hessian, and a loss of shards is differentiated once alone: train it "
            "without --shard",
        ),
        ("AdamW", 12, "a batch of 12 cannot be shared by 4 processes in 2 parts each"),
    ],
)
def test_what_cannot_be_sharded_is_one_sentence(
    tmp_path: Path, ranks: Pool, name: str, batch: int, message: str
) -> None:
    config = config_for(tmp_path, name, batch=batch)
    assert ranks.run(4, refusal_on_rank, tmp_path / "run", config) == [message] * 4


def started(world: int, on_each: int) -> dict[str, str]:
    return {"RANK": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(on_each)}


@pytest.mark.parametrize(
    ("sharding", "environment", "shape"),
    [
        (Sharding(), started(1, 1), (1,)),
        (Sharding(), started(8, 4), (8,)),
        (Sharding(hybrid=True), started(12, 4), (3, 4)),
        (Sharding(hybrid=True, replicas=2), started(12, 12), (2, 6)),
    ],
)
def test_processes_form_a_mesh(sharding: Sharding, environment: dict[str, str], shape: tuple[int, ...]) -> None:
    assert find_mesh(sharding, environment) == shape


@pytest.mark.parametrize(
    ("replicas", "environment", "found"),
    [
        (None, started(4, 4), "there are 4 processes for 1:"),
        (1, started(8, 4), "there are 8 processes for 1:"),
        (4, started(4, 4), "there are 4 processes for 4:"),
        (3, started(8, 4), "there are 8 processes for 3:"),
        (None, started(4, 1), "there are 4 processes for 4:"),
    ],
)
def test_a_hybrid_has_two_dimensions(replicas: int | None, environment: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigError, match=f"needs two dimensions, .*{found}"):
        find_mesh(Sharding(hybrid=True, replicas=replicas), environment)


def test_shards_need_torchrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["train", "--optimizer", "AdamW", "--shard", "full", "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr()
    assert "--shard needs the processes that torchrun starts" in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["half", "full:2", "hybrid:", "hybrid:0", "hybrid:2x4"])
def test_other_ways_to_shard_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--shard", text])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and f"expected full, hybrid, or hybrid:REPLICAS, got {text!r}" in shown


def test_the_page_says_what_an_optimizer_has_sent(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    config = config_for(tmp_path, "torch.optim.SGD", steps=2)
    found = run_in(folder / "one", config)
    assert "“Sent”" not in render_page(judge(folder), Comparison())
    sent = CommunicationRecord(2, {"all_reduce": 1, "all_to_all": 6}, 12_500.0)
    lines = (folder / "one" / LOG_FILE).read_text().splitlines(keepends=True)
    (folder / "one" / LOG_FILE).write_text("".join(lines[:-1]))
    with RunLog(folder / "one" / LOG_FILE) as log:
        log.on_communication(sent)
        assert found.result
        log.write_result(found.result)
    assert read_run(folder / "one").communication == (sent,)
    page = render_page(judge(folder), Comparison())
    assert 'data-field="sent_bytes" data-value="12500.0">12.5 kB<small>7 calls</small>' in page and "“Sent”" in page
    numbers = page.partition('id="numbers">')[2].partition("</script>")[0]
    assert json.loads(numbers)["methods"][0]["cost"]["sent_bytes"] == 12_500
