"""The list of mistakes is in step with the sources and with its table, and the contract tests see some of them."""

from __future__ import annotations

import pytest

from tests.runtime import template_mutants
from tests.runtime.template_mutants import MUTANTS, ROOT, TABLE, Mutant, mutated, row, rows_of, verdicts
from tests.support import classes

# One of each kind that is seen early: a wrong value, a wrong state, a missing check, a wrong kernel.
REPRESENTATIVE = (
    "gradient written",
    "hypers of the first group for all",
    "loaded state shared",
    "unknown keys accepted",
    "averages the wrong way round",
)


def test_the_seeds_are_those_of_the_contract():
    assert set(template_mutants.SEEDS) == classes.SEEDS


def test_there_are_thirty_mistakes_of_different_names():
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mistake_is_one_change_of_what_is_there(mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutated(text, mutant) != text


@pytest.mark.parametrize("text", ["", "here and here"])
def test_a_text_that_is_not_there_once_is_an_error(text):
    with pytest.raises(ValueError, match=r"name: its old text occurs (0|2) times in file"):
        mutated(text, Mutant("name", "", "file", "here", "there"))


def test_the_table_has_a_test_for_each_mistake_and_nothing_else():
    rows = rows_of(TABLE.read_text(encoding="utf-8"))
    assert list(rows) == [mutant.name for mutant in MUTANTS]
    for mutant in MUTANTS:
        name, _, by = rows[mutant.name].rpartition(" | ")
        assert name == row(mutant, "any").rpartition(" | ")[0]
        file, _, function = by.removesuffix(" |").strip("`").split("[")[0].partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), by


@pytest.mark.wide
def test_representative_mistakes_are_seen():
    chosen = [mutant for mutant in MUTANTS if mutant.name in REPRESENTATIVE]
    assert len(chosen) == len(REPRESENTATIVE)
    assert [mutant.name for mutant, caught in verdicts(chosen) if not caught] == []


@pytest.mark.wide
def test_what_no_test_could_see_survives_and_what_cannot_run_is_no_catch(monkeypatch):
    monkeypatch.setattr(template_mutants, "CONTRACT", (("tests/runtime/test_contract.py", "-k", "hooks_run and SGD"),))
    file = f"{template_mutants.RUNTIME}/contract/hypers.py"
    harmless = Mutant("harmless", "", file, "import difflib\n", "import difflib  # a remark\n")
    ((_, caught),) = verdicts([harmless])
    assert caught is None
    broken = Mutant("broken", "", file, "import difflib\n", "import no_such_module\n")
    with pytest.raises(RuntimeError, match="could not run"):
        list(verdicts([broken]))
