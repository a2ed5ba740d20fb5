"""What a spec can mean wrongly, word for word: fixtures in ``tests/cases/errors``.

Each ``CODE_name.opt`` has mistakes of that code, ``CODE_name.txt`` all that is said about it. Comments ``#> text``
in it are the repair: the text stands for the line below, an empty one for none. ``OPTFORGE_UPDATE=1`` writes the
texts anew; read every difference before committing it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from optforge.compiler.frontend.builtins import UNIVERSAL
from optforge.compiler.frontend.hints import FUNCTIONS, VALUES
from optforge.dsl.diagnostics import Diagnostic, render_text
from optforge.dsl.errors import CATALOGUE, examples
from tests.support.spec_files import check_files, split_files

CASES = Path(__file__).parents[1] / "cases"
FOLDER = CASES / "errors"
FIXTURES = sorted(FOLDER.glob("*.opt"))
SYNTAX = [code for code in CATALOGUE if code < "E010"]
UPDATE = os.environ.get("OPTFORGE_UPDATE") == "1"

named_after_stem = pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)


def said_of(path: Path) -> tuple[Diagnostic, ...]:
    return check_files(path.read_text(encoding="utf-8"), path.name)


def own_name(path: Path) -> str:
    """The name of the file that a fixture is about: itself, or the last of those in it."""
    return list(split_files(path.read_text(encoding="utf-8"), path.name))[-1]


def code_of(path: Path) -> str:
    return path.stem.partition("_")[0]


def repaired(text: str) -> str:
    """The spec with the line after each ``#> repair`` replaced by the repair."""
    lines: list[str] = []
    skip = False
    for line in text.splitlines():
        indent, mark, repair = line.partition("#>")
        if mark and not indent.strip():
            lines += [indent + repair.removeprefix(" ")] if repair.strip() else []
        elif not skip:
            lines.append(line)
        skip = bool(mark) and not indent.strip()
    return "\n".join(lines) + "\n"


@named_after_stem
def test_fixture_says_exactly_this(path):
    found = render_text(said_of(path)) + "\n"
    expected = path.with_suffix(".txt")
    if UPDATE:
        expected.write_text(found, encoding="utf-8", newline="\n")
    assert found == expected.read_text(encoding="utf-8")


@named_after_stem
def test_fixture_raises_its_code(path):
    """Its own code comes; others only where the same mistakes cannot be made without them."""
    codes = {diagnostic.code for diagnostic in said_of(path)}
    assert code_of(path) in codes
    assert codes <= {code_of(path)} | ALSO.get(path.stem, set())


# Fixtures in which a second code is part of the same story.
ALSO: dict[str, set[str]] = {}


@named_after_stem
def test_repair_is_free_of_mistakes(path):
    text = path.read_text(encoding="utf-8")
    assert "#>" in text
    assert render_text(check_files(repaired(text))) == ""


def test_every_code_has_a_fixture_and_every_fixture_its_code():
    paths = [*FIXTURES, *(CASES / "syntax").glob("*.opt")]
    assert {code_of(path) for path in paths} == set(CATALOGUE)


def test_every_text_belongs_to_a_fixture():
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in FIXTURES}


@named_after_stem
def test_everything_said_points_into_the_spec(path):
    """Labels may stand in a shipped spec; the mistake itself is the user's, and something is underlined."""
    for diagnostic in said_of(path):
        assert diagnostic.span.source.path == own_name(path)
        assert diagnostic.span.text.strip()
        assert "\n" not in diagnostic.message + diagnostic.note + (diagnostic.help or "")
        places = [(label.span.source.path, label.span.start, label.span.end) for label in diagnostic.labels]
        assert all(not Path(place).is_absolute() for place, _, _ in places)


@named_after_stem
def test_nothing_is_said_twice(path):
    said = [(diagnostic.message, diagnostic.span.start, diagnostic.span.end) for diagnostic in said_of(path)]
    assert len(said) == len(set(said))


@pytest.mark.parametrize("code", [code for code in CATALOGUE if code not in SYNTAX])
def test_explanation_has_a_wrong_and_a_right_spec(code):
    wrong, right = examples(code)
    assert {diagnostic.code for diagnostic in check_files(wrong)} == {code}
    assert render_text(check_files(right)) == ""


def test_repairs_are_put_in():
    assert repaired("a\n  #> b\n  c\n#>\nd\ne\n") == "a\n  b\ne\n"


def test_suggested_expressions_are_right():
    """What the help says to write instead of a familiar function is itself free of mistakes."""
    names = {
        "a": "grad",
        "b": "weight",
        "condition": "lr > 0",
        "x": "grad",
        "y": "2",
        "p": "2",
        "q": "0.5",
        "lo": "0",
        "hi": "1",
        "decay": "0.9",
    }
    for suggestion in set(FUNCTIONS.values()):
        text = re.sub(r"[a-z]+", lambda word: names.get(word[0], word[0]), suggestion.replace("x @ y", "x @ weight'"))
        text = re.sub(r"\bs\b", "grad @ grad'", text).replace("total(grad)", "total(norm(grad))")
        equations = f"        b = {text}\n        weight <- weight - lr * norm(b if lr > 0 else b)\n"
        assert not check_files(f"optimizer Plain:\n    hyper lr = 0.1\n    for matrix:\n{equations}"), suggestion
    assert set(VALUES.values()) <= {*UNIVERSAL, "true", "false", "inf"}


def test_what_is_repeated_too_often_is_looked_at_all_the_same():
    text = "optimizer Counted:\n    for tensor:\n        weight <- weight - grd |> tanh times 40\n"
    assert {diagnostic.code for diagnostic in check_files(text)} == {"E012", "E045"}
