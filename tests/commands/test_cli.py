"""The command line as a person uses it: output, exit codes, and files touched."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from optforge.compiler.commands.cli import main
from optforge.dsl.errors import CATALOGUE

GOOD = "optimizer Plain:\n    hyper lr = 0.1 where lr >= 0\n\n    for tensor:\n        weight <- weight - lr * grad\n"
WRONG = GOOD.replace("grad", "grd").replace("hyper lr = 0.1", "hyper lr = -1")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "optforge", *arguments], capture_output=True, text=True, check=False)


def test_check_is_silent_about_a_right_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("a.opt", GOOD)]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_shows_what_is_wrong_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("a.opt", GOOD), written("b.opt", WRONG)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error[E012]: unknown name `grd`\n  --> b.opt:5:33\n")
    assert "\x1b[" not in err


def test_check_takes_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("inside").mkdir()
    written("inside/b.opt", WRONG)
    assert main(["check", "inside"]) == 1
    assert "inside/b.opt:5" in capsys.readouterr().err


def test_json_goes_to_stdout_for_editors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", written("b.opt", WRONG)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert [entry["code"] for entry in json.loads(out)] == ["E012"]
    assert main(["check", "--json", written("a.opt", GOOD)]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "missing.opt"],
        ["check", "."],
        ["frobnicate"],
        ["build", "--frobnicate"],
        ["build"],
        ["explain", "E999"],
        ["new", "no-name"],
        ["new", "lambda"],
        ["check", "good.opt", "--dump-after", "nothing"],
        [],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    Path("folder").mkdir()
    Path("folder/good.opt").write_text(GOOD)
    arguments = [f"folder/{part}" if part == "good.opt" else part for part in arguments]
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("name", ["check", "build", "fmt", "explain", "doc", "ops", "new"])
def test_each_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"Example: optforge {name}" in capsys.readouterr().out


def test_fmt_check_diff_and_write(capsys: pytest.CaptureFixture[str]) -> None:
    messy = GOOD.replace("weight - lr * grad", "weight-lr*grad  # step")
    name = written("a.opt", messy)
    assert main(["fmt", "--check", name]) == 1
    assert main(["fmt", "--diff", name]) == 0
    assert "+        weight <- weight - lr * grad  # step" in capsys.readouterr().out
    assert Path(name).read_text() == messy
    assert main(["fmt", name]) == 0
    assert Path(name).read_text() == GOOD.replace("lr * grad", "lr * grad  # step")
    assert main(["fmt", "--check", name]) == 0


def test_fmt_leaves_a_broken_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    name = written("a.opt", "optimizer A\n    hyper\n")
    assert main(["fmt", name]) == 1
    assert Path(name).read_text() == "optimizer A\n    hyper\n"
    assert "error[E0" in capsys.readouterr().err


def test_explain_gives_the_long_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "e012"]) == 0
    told = capsys.readouterr().out
    assert "Wrong:" in told and "Right:" in told
    assert main(["explain", "all"]) == 0
    assert all(code in capsys.readouterr().out for code in list(CATALOGUE)[:1])


def test_explain_says_what_a_spec_does_on_shards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "NorMuon"]) == 0
    told = capsys.readouterr().out
    assert "NorMuon, rule matrix\n  cut between rows: one rank, the owner, sees the whole matrix\n" in told
    assert "to the owner  m\n    and back      o\n" in told and "rule rest\n  cut anywhere: every rank steps" in told
    assert main(["explain", written("a.opt", GOOD), "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["kind"], only["rounds"], only["bytes"]) == ("local", 0, "0")
    assert main(["explain", written("b.opt", WRONG)]) == 1
    assert main(["explain", "NoSuchThing"]) == 2


def test_new_writes_a_spec_that_is_right_and_formatted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "Mine"]) == 0
    assert main(["check", "mine.opt"]) == 0
    assert main(["fmt", "--check", "mine.opt"]) == 0
    before = Path("mine.opt").read_text()
    capsys.readouterr()
    assert main(["new", "Mine"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("mine.opt").read_text() == before


def test_build_of_a_wrong_spec_writes_nothing() -> None:
    assert main(["build", written("a.opt", GOOD), written("b.opt", WRONG), "--out", "made"]) == 1
    assert not Path("made").exists()


FUNCTIONS = "def halved(x) = x / 2\n"
COMMANDS = (
    "build kit.opt --out made",
    "build kit.opt --out made --check",
    "build kit.opt --standalone --out made",
    "build kit.opt --explain-schedule",
    "check kit.opt --dump-after fold",
    "verify kit.opt",
    "verify kit.opt --json",
    "compare kit.opt AdamW",
    "compare AdamW kit.opt:halved",
    "fuzz kit.opt --against torch.optim:AdamW",
    "fuzz kit.opt --against torch.optim:AdamW --optimizer halved",
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_file_of_functions_has_nothing_to_make_of(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is right, and others can use it; what wants a class says in one sentence that there is none."""
    written("kit.opt", FUNCTIONS)
    assert main(["check", "kit.opt"]) == main(["fmt", "--check", "kit.opt"]) == 0
    assert main(line.split()) == 2
    assert capsys.readouterr() == (
        "",
        "optforge: kit.opt defines functions and wrappers only: no optimizer, schedule or penalty\n",
    )
    assert not Path("made").exists()


def test_functions_beside_a_spec_are_no_hindrance() -> None:
    written("kit.opt", FUNCTIONS)
    written("a.opt", GOOD.replace("lr * grad", "lr * halved(grad)"))
    assert main(["build", ".", "--out", "made"]) == 0
    assert Path("made/a.py").exists() and not Path("made/kit.py").exists()


def test_fuzz_takes_no_other_optimizer_than_the_one_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    written("a.opt", GOOD)
    assert main(["fuzz", "a.opt", "--against", "torch.optim:SGD", "--optimizer", "Plane"]) == 2
    assert capsys.readouterr().err == "optforge: a.opt defines no optimizer `Plane`, but Plain\n"


def test_json_and_a_dump_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("a.opt", GOOD), "--json", "--dump-after", "fold"]) == 2
    said = "optforge: `--json` prints diagnostics and `--dump-after` a program: ask for one of them\n"
    assert capsys.readouterr() == ("", said)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"optforge {version('optforge')}\n"


def test_dump_after_prints_each_function(capsys: pytest.CaptureFixture[str]) -> None:
    name = written("a.opt", GOOD)
    assert main(["check", name, "--dump-after", "schedule", "--verify"]) == 0
    before = capsys.readouterr().out
    assert main(["build", name, "--dump-after", "storage", "--out", "made"]) == 0
    after = capsys.readouterr().out
    assert "weight" in before and "lr * grad" in before
    assert before != after
    assert not Path("made").exists()


def test_check_holds_the_compiler_to_what_must_be_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written("a.opt", GOOD)
    assert main(["check", name, "--verify"]) == 0
    monkeypatch.setattr("optforge.compiler.driver.require_valid", lambda program, stage: 1 / 0)
    assert main(["check", name]) == 0 and main(["check", name, "--verify"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_mistake_of_the_compiler_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("sample")

    monkeypatch.setattr("optforge.compiler.driver.check_source", broken)
    assert main(["check", written("a.opt", GOOD)]) == 70
    told = capsys.readouterr().err
    assert "internal error (ZeroDivisionError: sample)" in told and "Traceback" not in told
