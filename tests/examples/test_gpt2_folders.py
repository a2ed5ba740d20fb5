"""The folder of a run: one process at a time, and nothing in it is removed but what a run wrote."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.gpt2.__main__ import main
from examples.gpt2.config import DataConfig, LoopConfig, ModelConfig, OptimizerConfig, RunConfig
from examples.gpt2.folders import FolderError, clear, holding
from examples.gpt2.logs import LogError, is_done, read_run, write_config_file

ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run."""
    assert main(arguments(tmp_path)) == 0
    return tmp_path / "run"


def arguments(folder: Path) -> list[str]:
    text = folder / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 60, encoding="utf-8")
    model = ModelConfig(context=8, layers=1, heads=1, width=8)
    loop = LoopConfig(steps=STEPS, batch=2, validate_every=2, validation_batches=1, checkpoint_every=2)
    (folder / "run").mkdir(exist_ok=True)
    write_config_file(
        folder / "run", RunConfig(OptimizerConfig("torch.optim.SGD", 0.1), model, DataConfig(str(text)), loop)
    )
    return [
        "train", "--config", str(folder / "run" / "config.json"), "--out", str(folder / "run"),
        "--cache", str(folder / "cache"),
    ]  # fmt: skip


def everything_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fresh_start_removes_a_run_and_nothing_else(tmp_path: Path, run: Path) -> None:
    (run / "tensorboard").mkdir(exist_ok=True)
    (run / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"")
    (run / "output.txt").write_bytes(b"")
    (run / "checkpoint-00000002.pt.new").write_bytes(b"the beginning of one")
    before = (run / "log.jsonl").read_bytes()
    with holding(run):
        clear(run)
    assert {path.name for path in run.iterdir()} <= {".lock"}
    assert main(arguments(tmp_path)) == 0
    assert read_run(run).steps and (run / "log.jsonl").read_bytes() != before


@pytest.mark.parametrize(
    "name", ["notes.txt", "run/log.jsonl", "tensorboard/picture.png", "checkpoint-best.pt", ".git/config"]
)
def test_a_folder_with_anything_else_is_refused(
    run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_bytes(b"somebody's")
    before = everything_in(run)
    (run / ".lock").unlink(missing_ok=True)
    before.pop(".lock", None)
    assert main([*arguments(tmp_path), "--fresh"]) == 1
    told = capsys.readouterr().err
    assert "which no run wrote: nothing was removed" in told and name.split("/")[0] in told and told.count("\n") == 1
    assert everything_in(run) == before


def test_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events.out.tfevents.1").write_bytes(b"kept")
    shutil.rmtree(run / "tensorboard", ignore_errors=True)  # where it is installed, the run has written there
    (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="holds tensorboard"):
        clear(run)
    assert (tmp_path / "elsewhere" / "events.out.tfevents.1").exists() and is_done(run)


def test_the_files_of_another_program_are_not_a_run(tmp_path: Path) -> None:
    for content, message in (('{"model_type": "gpt2"}', "expected the configuration of a run"), (None, "No such file")):
        (tmp_path / "log.jsonl").write_text("{}\n", encoding="utf-8")
        (tmp_path / "config.json").unlink(missing_ok=True)
        if content:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        before = everything_in(tmp_path)
        with pytest.raises(LogError, match=message):
            clear(tmp_path)
        assert everything_in(tmp_path) == before


def test_a_log_without_a_configuration_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log.jsonl").write_text('{"of": "another program"}\n', encoding="utf-8")
    command[command.index("--out") + 1] = str(tmp_path / "other")
    assert main(command) == 1
    assert "holds a log or checkpoints without config.json" in capsys.readouterr().err
    assert everything_in(tmp_path / "other") == {"log.jsonl": b'{"of": "another program"}\n'}


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_a_folder_is_named(
    tmp_path: Path, command: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("somebody's", encoding="utf-8")
    out = str(tmp_path / "file" / below)
    words = ["compare", "--optimizers", "torch.optim.SGD", "--data", str(tmp_path / "text.txt"), "--out", out]
    assert main([*arguments(tmp_path), "--out", out] if command == "train" else words) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / "file") in told and "folder" in told and "Errno" not in told and told.count("\n") == 1


# One process at a time

HOLD = """
import sys, time
from pathlib import Path
from examples.gpt2.folders import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout and other.stdout.readline() == "held\n"
        for more in ([], ["--fresh"]):
            assert main([*command, *more]) == 1
            told = capsys.readouterr().err
            assert f"process {other.pid} on {socket.gethostname()} is still training this run" in told
        assert not (tmp_path / "run" / "log.jsonl").exists()
    finally:
        other.kill()
        other.wait()
    assert main(command) == 0  # a killed process holds nothing


@pytest.mark.wide  # starts Python anew
def test_two_trainings_started_at_once_end_in_one_result(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.gpt2", *arguments(tmp_path)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    told = [process.communicate(timeout=120) for process in both]
    refused = [err for process, (_, err) in zip(both, told, strict=True) if process.returncode]
    assert len(refused) <= 1 and all("is still training this run" in err for err in refused)
    found = read_run(tmp_path / "run")
    assert [step.step for step in found.steps] == list(range(1, STEPS + 1)) and found.result
    assert found.result.final_validation_loss < found.validations[0].loss


def test_the_holder_is_forgotten_at_the_end(tmp_path: Path) -> None:
    with holding(tmp_path):
        assert (tmp_path / ".holder").read_text(encoding="utf-8") == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(FolderError, match=str(os.getpid())), holding(tmp_path):
            pass
    assert not (tmp_path / ".holder").exists()
    with holding(tmp_path):
        pass


# A result is that of the steps in the log


def without(kind: str, first: int = 0) -> Callable[[list[str]], list[str]]:
    def spoiled(lines: list[str]) -> list[str]:
        found = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind][first:]
        return [line for i, line in enumerate(lines) if i not in found]

    return spoiled


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("step"), "expected the 4 steps that its result is of, found 0"),
        (without("step", first=3), "expected the 4 steps that its result is of, found 3"),
        (lambda lines: [*lines[:-1], lines[3], lines[-1]], "as if two processes wrote it"),
    ],
    ids=["no step", "not the last step", "a step twice"],
)
def test_a_result_without_its_steps_is_not_believed(
    run: Path, spoil: Callable[[list[str]], list[str]], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert is_done(run)
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in spoil(lines)), encoding="utf-8")
    with pytest.raises(LogError, match=message):
        is_done(run)
    assert main(arguments(tmp_path)) == 1
    assert "log.jsonl" in capsys.readouterr().err
    assert main([*arguments(tmp_path), "--fresh"]) == 0 and is_done(run)
