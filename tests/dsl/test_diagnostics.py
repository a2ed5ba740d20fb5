"""Diagnostics: what is said about broken specs, word for word, and how it is laid out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic, Label, SpecError, render_json, render_text
from optforge.dsl.parser import parse_source, read_source
from optforge.dsl.source import NOWHERE, Source, Span
from tests.support.spec_files import split_files

CASES = sorted((Path(__file__).parents[1] / "cases" / "syntax").glob("*.opt"))
UPDATE = os.environ.get("OPTFORGE_UPDATE") == "1"


def diagnose(path: Path) -> tuple[Diagnostic, ...]:
    source, problems = read_source(path)
    return parse_source(source)[1] if source else problems


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_syntax_errors_are_shown_as_expected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    found = diagnose(Path(path.name))
    text = render_text(found) + "\n"
    expected = path.with_suffix(".txt")
    if UPDATE:
        expected.write_text(text, encoding="utf-8")
    assert path.stem.split("_")[0] in {diagnostic.code for diagnostic in found}
    assert expected.read_text(encoding="utf-8") == text, "OPTFORGE_UPDATE=1 rewrites the expected texts"


def test_every_syntax_code_has_a_case() -> None:
    assert {path.stem.split("_")[0] for path in CASES} == {code for code in errors.CATALOGUE if code < "E010"}


@pytest.mark.parametrize("code", errors.CATALOGUE)
def test_every_code_is_explained(code: str) -> None:
    text = errors.explain(code)
    assert text is not None and text.startswith(f"{code}: {errors.CATALOGUE[code].title}\n")
    explanation = text.split("\nWrong:\n")[0].splitlines()[2:]
    assert 2 <= len([line for line in explanation if line]) <= 10
    wrong, right = (list(split_files(example).values())[-1] for example in errors.examples(code))
    wrong, right = (parse_source(Source("example.opt", example))[1] for example in (wrong, right))
    assert right == ()
    if code < "E010" and code != "E001":
        assert {diagnostic.code for diagnostic in wrong} == {code}
    elif code != "E001":
        assert {diagnostic.code for diagnostic in wrong} <= {code}, render_text(wrong)


def test_unknown_codes_have_no_explanation() -> None:
    assert errors.explain("E999") is None


def show(text: str, start: int, end: int, **facts: object) -> str:
    span = Span(Source("a.opt", text), start, end)
    return render_text([Diagnostic("E000", "error", "no", span, **facts)])  # type: ignore[arg-type]


def test_the_whole_span_is_underlined() -> None:
    text = "optimizer A:\n    m = ema(grd, beta1)\n"
    assert show(text, text.index("grd"), text.index("grd") + 3, help="did you mean `grad`?") == (
        "error[E000]: no\n"
        "  --> a.opt:2:13\n"
        "   2 |     m = ema(grd, beta1)\n"
        "     |             ^^^\n"
        "   = help: did you mean `grad`?"
    )


def test_labels_stand_on_their_own_lines_in_source_order() -> None:
    source = Source("a.opt", "a = 1\nb = 2\nc = 3\nd = a + b\n")
    labels = (Label(Span(source, 22, 23), "this is one"), Label(Span(source, 0, 1), "from here"))
    shown = render_text([Diagnostic("E000", "error", "no", Span(source, 22, 27), "both", labels)])
    assert shown == (
        "error[E000]: no\n"
        "  --> a.opt:4:5\n"
        "   1 | a = 1\n"
        "     | - from here\n"
        "   ...\n"
        "   4 | d = a + b\n"
        "     |     ^^^^^ both\n"
        "     |     - this is one"
    )


def test_labels_in_other_files_name_the_file() -> None:
    here, there = Source("a.opt", "x = y\n"), Source("b.opt", "\ny = 1\n")
    shown = render_text([Diagnostic("E000", "error", "no", Span(here, 4, 5), "", (Label(Span(there, 1, 2), "this"),))])
    assert shown.endswith(
        "  --> a.opt:1:5\n"
        "   1 | x = y\n"
        "     |     ^\n"
        "  ::: b.opt:2:1\n"
        "   2 | y = 1\n"
        "     | - this"
    )  # fmt: skip


def test_spans_over_several_lines_show_the_first_and_name_the_last() -> None:
    assert show("a = f(\n  1\n)\n", 4, 12, note="all of it").endswith(
        "   1 | a = f(\n     |     ^^ all of it (to line 3)"
    )


def test_tabs_wide_and_control_characters_keep_the_caret_in_place() -> None:
    assert show("\tx\x1b\u202e界y\n", 5, 6).endswith("   1 |     x\\x1b\\u202e界y\n     |                  ^")


def test_nothing_but_line_breaks_controls_the_terminal() -> None:
    noise = "".join(map(chr, range(0x20))) + "\x7f\x9b\u2028\u202e"
    span = Span(Source(noise, noise), 0, 40)
    diagnostic = Diagnostic("E000", "error", noise, span, noise, (Label(span, noise),), noise)
    assert all(char.isprintable() for char in render_text([diagnostic]).replace("\n", ""))


def test_long_lines_are_cut_around_the_caret() -> None:
    lines = show("x = " + "a + " * 5000 + "é\n", 10000, 10001).splitlines()
    assert max(map(len, lines)) < 120
    assert lines[2].index("a", 30) and lines[3].strip("| ^") == ""
    assert lines[2].startswith("   1 | ...") and lines[2].endswith("...")


def test_diagnostics_come_in_source_order_and_without_a_place_if_there_is_none() -> None:
    source = Source("a.opt", "a b\n")
    late, early = (Diagnostic("E000", "error", "no", Span(source, at, at + 1)) for at in (2, 0))
    assert render_text([late, early]).index(":1:1") < render_text([late, early]).index(":1:3")
    assert render_text([Diagnostic("E000", "error", "no", NOWHERE)]) == "error[E000]: no\n  --> <built in>"


def test_colour_is_added_and_nothing_else() -> None:
    found = diagnose(CASES[-1])
    coloured = render_text(found, colour=True)
    for escape in ("\x1b[0m", "\x1b[1m", "\x1b[34m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m"):
        coloured = coloured.replace(escape, "")
    assert coloured == render_text(found)


def test_json_has_every_fact() -> None:
    source = Source("a.opt", "ab\ncd\n")
    label = Label(Span(source, 0, 2), "here")
    diagnostic = Diagnostic("W000", "warning", "no", Span(source, 3, 5), "note", (label,), "help")
    assert json.loads(render_json([diagnostic])) == [
        {
            "code": "W000",
            "severity": "warning",
            "message": "no",
            "path": "a.opt",
            "start": {"line": 2, "column": 1, "offset": 3},
            "end": {"line": 2, "column": 3, "offset": 5},
            "note": "note",
            "labels": [
                {
                    "text": "here",
                    "path": "a.opt",
                    "start": {"line": 1, "column": 1, "offset": 0},
                    "end": {"line": 1, "column": 3, "offset": 2},
                }
            ],
            "help": "help",
        }
    ]
    assert json.loads(render_json([])) == []


def test_spec_errors_say_it_all() -> None:
    found = diagnose(CASES[-1])
    assert str(SpecError(found)) == render_text(found)
