"""`optforge doc` as a person uses it: what it prints, the files that it writes, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from optforge.compiler.commands.cli import main

GOOD = "optimizer Plain:\n    hyper lr = 0.1 where lr >= 0\n\n    for tensor:\n        weight <- weight - lr * grad\n"
STEP = r"\theta_{t} &= \theta_{t-1} - \eta g_{t}"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_it_prints_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doc", written("a.opt", GOOD), "--markdown"]) == 0
    told, errors = capsys.readouterr()
    assert STEP in told and "# Plain" in told and errors == ""


def test_it_writes_a_file_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doc", written("a.opt", GOOD), "--latex", "-o", "folder/a.tex"]) == 0
    assert capsys.readouterr() == ("", "wrote folder/a.tex\n")
    text = Path("folder/a.tex").read_text(encoding="utf-8")
    assert text.startswith("% Written by `optforge doc --latex` from a.opt, ") and text.endswith("\\end{document}\n")
    assert [path.name for path in Path("folder").iterdir()] == ["a.tex"]


def test_a_file_stays_as_it_is_where_the_spec_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    wrong, old = written("b.opt", GOOD.replace("grad", "grd")), written("b.md", "old")
    assert main(["doc", wrong, "--markdown", "-o", old]) == 1
    told = capsys.readouterr().err
    assert "error[E012]: unknown name `grd`" in told and "^^^" in told
    assert Path("b.md").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("text", ["NAMO", "Muon |> Lookahead", "WSD", "Grokfast"])
def test_names_and_compositions_are_specs(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doc", text, "--markdown"]) == 0
    assert "$$" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NoSuchThing", "--latex"], "there is no shipped spec of `NoSuchThing`"),
        (["nothing.opt", "--latex"], "there is no file nothing.opt"),
        (["functions.opt", "--latex"], "functions.opt defines functions alone"),
    ],
)
def test_what_cannot_be_printed_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    written("functions.opt", "def half(x) = x / 2\n")
    assert main(["doc", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("forms", [[], ["--latex", "--markdown"]])
def test_one_form_is_asked_for(forms: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doc", "NAMO", *forms])
    assert stopped.value.code == 2
    assert "--latex" in capsys.readouterr().err


def test_warnings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    spec = GOOD.replace("        weight", "        idle = 2 * grad\n        weight")
    assert main(["doc", written("a.opt", spec), "--markdown"]) == 0
    told, errors = capsys.readouterr()
    assert STEP in told and "warning[" in errors and "idle" not in told


def test_a_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    written("file", "")
    assert main(["doc", written("a.opt", GOOD), "--latex", "-o", "file/a.tex"]) == 1
    assert "file is a file, where a folder is needed" in capsys.readouterr().err


HOSTILE = '''"""100% of $x_1$ & {more} \\\\ ~ ^ # < | `a_b` *bold* — é"""

optimizer Plain:
    hyper lr = 0.1 where lr >= 0 "50 % \\\\textbf{x} | $"

    for tensor:
        weight <- weight - lr * grad
'''


def test_signs_in_texts_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A spec's words are words, in either form."""
    name = written("a.opt", HOSTILE)
    assert main(["doc", name, "--latex"]) == 0
    latex = capsys.readouterr().out
    assert (
        r"100\% of \$x\_1\$ \& \{more\} \textbackslash{}\textbackslash{} \textasciitilde{} \textasciicircum{}" in latex
    )
    assert r"50 \% \textbackslash{}\textbackslash{}textbf\{x\} \ensuremath{|} \$" in latex and r"\texttt{a\_b}" in latex
    assert main(["doc", name, "--markdown"]) == 0
    page = capsys.readouterr().out
    assert r"\$x\_1\$" in page and r"\*bold\*" in page and "`a_b`" in page
