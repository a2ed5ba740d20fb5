"""Each pass on small specs, before and after, in text that reads back.

A fixture is ``tests/cases/passes/<pass>.txt``: cases with a title, a spec, and the functions that the pass changes.
With ``OPTFORGE_UPDATE=1`` the functions are written anew from the specs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from optforge.compiler.driver import check_source, fold_requirements, map_functions, passes_of
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.printer import dump_function, read_function
from optforge.compiler.ir.verifier import functions_of
from optforge.compiler.targets.torch.passes import TORCH_REWRITES
from optforge.dsl.source import Source
from tools.programs.differential import compile_everywhere, require_printed
from tools.programs.programs import random_programs

CASES = Path(__file__).parents[1] / "cases" / "passes"
PASSES = passes_of(TORCH_REWRITES)
NAMES = [name for name, _ in PASSES]
SHOWN = [name for name in NAMES if (CASES / f"{name}.txt").exists()]
TITLE = re.compile(r"^=== (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    title: str
    spec: str

    def shown(self, name: str) -> str:
        """The case as the fixture has it: the spec, and what the pass does to its functions."""
        pairs = [(old, new) for old, new in stages_around(self.spec, name)]
        changed = [(old, new) for old, new in pairs if old != new]
        parts = [f"=== {self.title}", self.spec.strip()]
        if changed:
            parts += ["--- before", *(dump_function(old) for old, _ in changed)]
            parts += ["--- after", *(dump_function(new) for _, new in changed)]
        else:
            parts += ["--- unchanged", *(dump_function(old) for old, _ in pairs)]
        return "\n\n".join(parts)


def stages_around(spec: str, name: str) -> list[tuple[ir.Function, ir.Function]]:
    """Every function of the spec before and after the pass."""
    program = fold_requirements(check_source(Source("case.opt", spec)).require())
    for stage, rewrite in PASSES:
        changed = map_functions(rewrite, program)
        if stage == name:
            return list(zip(functions_of(program), functions_of(changed), strict=True))
        program = changed
    raise AssertionError(f"there is no pass {name}")


def read_cases(path: Path) -> list[Case]:
    _, *pieces = TITLE.split(path.read_text(encoding="utf-8"))
    return [
        Case(title, re.split(r"^--- ", body, flags=re.MULTILINE)[0])
        for title, body in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def test_every_pass_has_a_fixture() -> None:
    shown = {rewrite for name, rewrite in PASSES if name in SHOWN}
    assert shown == {rewrite for _, rewrite in PASSES}
    assert sorted(path.stem for path in CASES.glob("*.txt")) == sorted(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_before_and_after(name: str) -> None:
    path = CASES / f"{name}.txt"
    text = "\n\n\n".join(case.shown(name) for case in read_cases(path)) + "\n"
    if os.environ.get("OPTFORGE_UPDATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with OPTFORGE_UPDATE=1 and look at the difference"


@pytest.mark.parametrize("name", SHOWN)
def test_fixtures_read_back(name: str) -> None:
    for case in read_cases(CASES / f"{name}.txt"):
        for functions in stages_around(case.spec, name):
            for function in functions:
                assert read_function(dump_function(function)) == function


@pytest.mark.parametrize("name", SHOWN)
def test_a_second_time_changes_nothing(name: str) -> None:
    rewrite = dict(PASSES)[name]
    for case in read_cases(CASES / f"{name}.txt"):
        for _, after in stages_around(case.spec, name):
            assert rewrite(after) == after, case.title


def test_random_functions_read_back_after_every_pass() -> None:
    for program in random_programs(1, 25):
        for stage, after in compile_everywhere(require_printed(program, program.text), program.text).stages:
            for function in functions_of(after):
                text = dump_function(function)
                assert read_function(text) == function, (stage, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step: 3",
        "function step for nobody",
        "function step for matrix\n    x = 1",
        "function step for matrix\n    return x = (",
        "function step for matrix\n    hyper lr: soon",
    ],
)
def test_what_is_no_dump_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_function(text)
