"""Other files: what a spec takes from them is what they say now, and what it does not take does not matter."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optforge
from optforge.compiler import load
from optforge.compiler.driver import Workspace, check_file

OWN = "optimizer Own extends Base:\n    for tensor:\n        weight <- weight - scaled(super)\n"
BASE = "optimizer Base:\n    for tensor:\n        weight <- {0}{1} + 0 * grad\n"
KIT = "def scaled(x) = {0}{1} * x\n"
MOMENT = 1_700_000_000_000_000_000


@dataclass
class Folder:
    """Files beside a spec, as the model has them: what each defines, with a digit, and which are broken."""

    path: Path
    defined: dict[str, dict[str, str]] = field(default_factory=lambda: {"a": {}, "b": {}, "c": {}})
    broken: set[str] = field(default_factory=set)

    def write(self, name: str) -> None:
        """The file as the model has it; its size and its date say nothing of what changed."""
        path = self.path / f"{name}.opt"
        path.unlink(missing_ok=True)
        content = self.defined[name]
        if content:
            texts = [{"Base": BASE, "scaled": KIT}[what].format(digit, 0) for what, digit in content.items()]
            path.write_text("\n".join(texts) + ("(" if name in self.broken else " "))
            os.utime(path, ns=(MOMENT, MOMENT))

    def taken(self, what: str, unknown: str) -> float | str:
        """The number behind a name that is looked for, or the code of what is said."""
        homes = [name for name, content in self.defined.items() if what in content]
        if len(homes) != 1:
            return "E060" if homes else unknown
        return "E061" if homes[0] in self.broken else 10.0 * int(self.defined[homes[0]][what])

    def expected(self) -> float | str:
        """The step from 1, or the code of what is said; without its base nothing else of an optimizer is looked at."""
        base, factor = self.taken("Base", "E018"), self.taken("scaled", "E014")
        if isinstance(base, str) or isinstance(factor, str):
            return base if isinstance(base, str) else factor
        return 1 - base * factor


def found(path: Path) -> float | str:
    try:
        cls = optforge.load(path)
    except optforge.SpecError as problem:
        (code,) = {each.code for each in problem.diagnostics}
        return code
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    cls([p]).step()
    return p.item()


edits = st.tuples(st.sampled_from("abc"), st.sampled_from(["Base", "scaled"]), st.sampled_from([*"1234", "", "broken"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(edits, min_size=1, max_size=12))
def test_a_loaded_class_is_what_all_the_files_say_now(tmp_path_factory, sequence) -> None:
    """A base and a function beside the spec are edited, moved, doubled, broken and removed, between loads."""
    folder = Folder(tmp_path_factory.mktemp("specs"))
    (folder.path / "own.opt").write_text(OWN)
    for name, what, change in [("a", "Base", "1"), ("b", "scaled", "2"), *sequence]:
        if change == "broken":
            folder.broken ^= {name}
        elif change:
            folder.defined[name][what] = change
        else:
            folder.defined[name].pop(what, None)
        folder.write(name)
        assert found(folder.path / "own.opt") == folder.expected()


PLAIN = "optimizer {0}:\n    for tensor:\n        weight <- weight - grad\n"
USER = "optimizer User:\n    for tensor:\n        weight <- weight - {0}(grad)\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def codes(path: Path) -> list[str]:
    return [diagnostic.code for diagnostic in check_file(path).diagnostics]


def test_nothing_is_compiled_again_that_has_not_changed(write, monkeypatch) -> None:
    """Also not when other files came and went, or when what changed is again what it was."""
    own = write("own.opt", "optimizer Own extends Base:\n    hyper lr = 0.1\n")
    base = write("base.opt", PLAIN.format("Base"))
    first = optforge.load(own)
    write("base.opt", PLAIN.format("Base").replace("- grad", "- 2 * grad"))
    second = optforge.load(own)
    assert second is not first
    base.write_text(PLAIN.format("Base"))
    write("other.opt", PLAIN.format("Other"))
    monkeypatch.setattr(load, "compile_module", None)
    assert optforge.load(own) is first


def test_a_file_is_found_that_came_after_the_first_check(write) -> None:
    own = write("own.opt", "optimizer Own extends Late:\n    hyper lr = 0.1\n")
    for text in ("", "# nothing yet\n"):
        assert codes(own) == ["E018"], text
        write("late.opt", text)
    write("late.opt", "optimizer Late extends Later:\n    hyper lr = 0.1\n")
    assert codes(own) == ["E018"]
    write("later.opt", PLAIN.format("Later"))
    assert codes(own) == ["W003"]


def test_what_a_file_defines_itself_is_looked_for_nowhere_else(write) -> None:
    """Not even among broken files that define it as well, several of them."""
    for name in ("broken.opt", "more.opt"):
        write(name, "def halved(x) = (x / 2\n" + PLAIN.format("Base"))
    own = write("own.opt", "def halved(x) = x / 2\n\n" + PLAIN.format("Base") + USER.format("halved"))
    assert codes(own) == []
    assert codes(write("own.opt", "optimizer AdamW2 extends AdamW:\n    hyper lr = 0.1\n")) == []


def test_a_name_beside_comes_before_a_shipped_one(write) -> None:
    write("mine.opt", PLAIN.format("AdamW"))
    own = optforge.load(write("own.opt", "optimizer Own extends AdamW:\n    for tensor:\n        weight <- super\n"))
    assert not {"lr", "beta1"} & set(inspect.signature(own).parameters)


def test_what_is_no_plain_file_is_passed_by(write, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a_pipe.opt")
    (tmp_path / "dangling.opt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.opt").mkdir()
    assert codes(write("own.opt", USER.format("halved"))) == ["E014"]
    write("kit.opt", "def halved(x) = x / 2\n")
    assert codes(tmp_path / "own.opt") == []


def test_links_to_a_file_are_that_file(write, tmp_path: Path) -> None:
    own = write("own.opt", USER.format("halved"))
    kit = write("kit.opt", "def halved(x) = x / 2\n")
    for name in ("a_kit.opt", "z_kit.opt"):
        (tmp_path / name).symlink_to(kit)
    assert codes(own) == []
    write("other.opt", "def halved(x) = x / 2\n")
    assert codes(own) == ["E060"]


def test_a_snapshot_stays_the_same_while_nothing_it_rests_on_changes(write) -> None:
    own = write("own.opt", "optimizer Own extends Base:\n    hyper lr = 0.1\n")
    base = write("base.opt", PLAIN.format("Base"))
    workspace = Workspace()
    first = workspace.snapshot(own)
    workspace.refresh()
    write("other.opt", PLAIN.format("Other"))
    assert workspace.snapshot(own) is first and first.program is not None
    base.write_text(PLAIN.format("Base").replace("- grad", "- 2 * grad"))
    assert workspace.snapshot(own) is first  # nobody has looked at the files again
    workspace.refresh()
    assert workspace.snapshot(own) is not first


def test_what_an_editor_has_open_counts(write) -> None:
    """Texts in place of files, of the spec itself, of what it takes from, and of files that are not there yet."""
    own = write("own.opt", "optimizer Own extends Base:\n    hyper lr = 0.1\n")
    workspace = Workspace()
    assert [each.code for each in workspace.snapshot(own).diagnostics] == ["E018"]
    workspace.edit(own.parent / "base.opt", PLAIN.format("Base"))
    assert workspace.snapshot(own).program is not None
    workspace.edit(own, "optimizer Own extends Nothing:\n    hyper lr = 0.1\n")
    assert [each.code for each in workspace.snapshot(own).diagnostics] == ["E018"]
    workspace.edit(own, None)
    assert workspace.snapshot(own).program is not None
    workspace.edit(own.parent / "base.opt", None)
    assert [each.code for each in workspace.snapshot(own).diagnostics] == ["E018"]


def test_a_mistake_is_said_anew_where_other_files_offer_other_names(write) -> None:
    own = write("own.opt", "optimizer Own extends Bases:\n    hyper lr = 0.1\n")
    workspace = Workspace()
    (before,) = workspace.snapshot(own).diagnostics
    write("base.opt", PLAIN.format("Base"))
    workspace.refresh()
    (after,) = workspace.snapshot(own).diagnostics
    assert "Base" in str(after) and str(after) != str(before)
