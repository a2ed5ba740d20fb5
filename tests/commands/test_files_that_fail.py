"""Files and folders that cannot be read or written end a command with a sentence about them, never as a bug of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optforge.compiler.commands.cli import main

ROOT = Path(__file__).parents[2]
GOOD = "optimizer Plain:\n    hyper lr = 0.1 where lr >= 0\n\n    for tensor:\n        weight <- weight - lr * grad\n"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.opt").write_text(GOOD)
    Path("a_file").write_text("kept")
    Path("folder.opt").mkdir()
    Path("circle").symlink_to("circle")


def command(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "optforge", *arguments]
    environment = {**os.environ, "OPTFORGE_DEBUG": "", "PYTHONUNBUFFERED": ""}
    return subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False, env=environment, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kind", ["plain", pytest.param("torch", marks=pytest.mark.wide)])
def test_whatever_a_command_uses_may_fail(kind: str) -> None:
    """Each file that a command opens, makes or lists fails once: it says so, or goes on without."""
    Path("here").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    line = [sys.executable, "-m", "tests.commands.failing_files", kind]
    done = subprocess.run(line, cwd="here", capture_output=True, text=True, check=False, env=environment)
    runs = json.loads(done.stdout)
    for run in runs:
        first = run["said"].partition("\n")[0]
        assert run["code"] in (0, 1, 2), run
        if first.startswith("optforge: cannot use"):
            said = Path("here", first.removeprefix("optforge: cannot use ").partition(":")[0]).resolve()
            assert Path(run["path"]).parent == said.parent and run["code"] == 1, run
        elif run["code"] and "--json" not in run["line"]:
            assert first.startswith(("error[E0", "optforge: there are no", "made/", "differs after")), run
    failed = {run["line"] for run in runs if run["path"] and run["code"] == 1}
    assert {run["line"] for run in runs} - failed == ({"explain E012"} if kind == "plain" else set())


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("build a.opt --out a_file", 1, "a_file is a file, where a folder is needed"),
        ("build a.opt --out a_file/deeper/still", 1, "a_file is a file, where a folder is needed"),
        ("build a.opt --standalone --out a_file", 1, "a_file is a file, where a folder is needed"),
        ("build a.opt --standalone --out taken", 2, "taken/a.py was not written by `optforge build`"),
        ("build a.opt --out circle", 1, "cannot use circle: file exists"),
        ("compare a.opt a.opt --shape 99999999x99999999", 1, "there is not enough memory"),
        ("fmt folder.opt", 2, "there are no .opt files in folder.opt"),
        ("compare folder.opt AdamW", 2, "folder.opt is a folder, not a spec"),
        ("fuzz folder.opt --against torch.optim:SGD", 2, "folder.opt is a folder, not a spec"),
        ("fuzz taken --against torch.optim:SGD", 2, "taken is a folder, not a spec"),
    ],
)
def test_places_of_another_kind(line: str, code: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken/a.py").mkdir(parents=True)
    assert main(line.split()) == code
    out, said = capsys.readouterr()
    assert not out and said.startswith(f"optforge: {sentence}") and said.count("\n") == 1
    assert Path("a_file").read_text() == "kept"


def test_a_folder_may_hold_more_than_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Links to nothing are named, as what cannot be read; pipes and folders are no specs, whatever they are called."""
    assert main(["check", "."]) == 0
    os.mkfifo("pipe.opt")
    assert main(["check", "."]) == 0 and not capsys.readouterr().err
    Path("circle.opt").symlink_to("circle.opt")
    Path("nothing.opt").symlink_to("nowhere")
    for line in ("check .", "build . --out made", "verify .", "fmt --check ."):
        assert main(line.split()) == 1
        said = capsys.readouterr().err
        assert "cannot read `circle.opt`: too many levels" in said and "cannot read `nothing.opt`: no such file" in said
        assert said.count("error[E001]") == 2, said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("line", ["ops", "check --json a.opt", "check a.opt --dump-after fold"])
def test_output_that_cannot_be_written(line: str) -> None:
    with open("/dev/full", "w") as full:
        done = command(*line.split(), stdout=full)
    assert (done.returncode, done.stderr) == (1, "optforge: cannot go on: no space left on device\n")


@pytest.mark.parametrize("line", ["ops", "explain all", "check --json a.opt"])
def test_a_reader_that_has_gone_is_told_nothing(line: str) -> None:
    """The rest of the output goes nowhere; that it was not all read is in the exit code alone."""
    read, write = os.pipe()
    os.close(read)
    done = command(*line.split(), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_messages_that_nobody_hears_change_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "optforge", "check", "none.opt"], stderr=write, check=False)
    os.close(write)
    assert done.returncode == 2
