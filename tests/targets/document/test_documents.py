"""Documents of all shipped specs: complete, in KaTeX's words, narrow enough, and with the values of the oracle.

Golden files are in ``tests/cases/documents``; ``OPTFORGE_UPDATE=1`` writes them anew.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from optforge.compiler.driver import Workspace, documented_program
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Universe
from optforge.compiler.load import source_of
from optforge.compiler.oracle.interpreter import OracleParameter, run_step
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.document.layout import PAGE, PrintedLine, widest_row
from optforge.compiler.targets.document.pages import PrintedAlgorithm, PrintedDeclaration, printed_program
from optforge.compiler.targets.document.target import LATEX, MARKDOWN
from optforge.dsl import ast
from tests.targets.document.katex import formulas_of, require_katex
from tests.targets.document.reading import Formulas, Unreadable

CASES = Path(__file__).parents[2] / "cases" / "documents"
SHIPPED = sorted(SPECS.glob("*.opt"))
WORKSPACE = Workspace(LATEX.reserved)


@cache
def program_of(path: Path) -> ir.Program:
    return documented_program(WORKSPACE.snapshot(path).require(), LATEX.rewrites)


@cache
def pages_of(path: Path) -> tuple[PrintedDeclaration, ...]:
    return tuple(printed_program(program_of(path)))


def origin_of(path: Path) -> Origin:
    return Origin(path.name, path.read_text(encoding="utf-8"))


def lines_of(page: PrintedDeclaration) -> Iterator[PrintedLine]:
    return (line for each in page.algorithms for block in each.blocks for line in (*each.first, *block.lines))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_spec_is_printed(path: Path) -> None:
    program = program_of(path)
    pages = pages_of(path)
    assert [page.name for page in pages] == [each.name for each in (*program.declarations, *program.wrappers)]
    for formula in formulas_of(MARKDOWN.render(program, origin_of(path))):
        require_katex(formula)
    for line in (line for page in pages for line in lines_of(page)):
        assert widest_row(line) <= PAGE, line.left.text + line.right.text
    for page, node in zip(pages, (*program.declarations, *program.wrappers), strict=True):
        assert [row.name for row in page.hypers] == [hyper.name for hyper in node.hypers]
        if isinstance(node, ir.Optimizer):
            for rule, algorithm in zip(node.rules, page.algorithms, strict=False):
                assert len(algorithm.first) == len(rule.states)
                assert len(algorithm.blocks) == 1 + len(rule.events)


# Values


def named(row: str) -> str:
    return rf"\mathrm{{{row}}}".replace("_", r"\_")


def hyper_values(page: PrintedDeclaration, node: ir.Declaration) -> tuple[dict[str, ir.Value], dict[str, ir.Value]]:
    """The defaults of hypers by their symbols, and by their names."""
    names = {h.name: h.default.value for h in node.hypers if h.default is not None}
    names = {name: 0.125 if name in ("lr", "weight_decay") and value == 0 else value for name, value in names.items()}
    texts = {row.name: row.symbol.text if row.symbol else named(row.name) for row in page.hypers}
    return {texts[name]: value for name, value in names.items()}, names


class Steps:
    """Runs the printed lines of one rule, step by step, on one number."""

    def __init__(self, algorithm: PrintedAlgorithm, hypers: dict[str, ir.Value], weight: str, gradient: str) -> None:
        self.lines, self.first = algorithm.blocks[0].lines, algorithm.first
        self.weight, self.gradient = weight, gradient
        sizes = {rf"n_{{\mathrm{{{side}}}}}": 1.0 for side in ("row", "col", "out", "in")}
        self.known: dict[str, float | bool | str] = {**hypers, **sizes, "I": 1.0}  # type: ignore[dict-item]
        self.t = 0

    def step(self, value: float, gradient: float) -> float:
        """The weight after a step, and in ``known`` all that was computed on the way."""
        self.t += 1
        known = self.known
        known |= {"t": float(self.t), f"{self.weight}_{{t-1}}": value, f"{self.gradient}_{{t}}": gradient}
        if self.t == 1:
            known |= {f"{self.weight}_{{0}}": value, f"{self.gradient}_{{1}}": gradient}
            for line in self.first:
                known[line.left.text] = Formulas(known).value(line.right.text)
                known[line.left.text.replace("0}", "t-1}")] = known[line.left.text]
        for line in self.lines:
            known[line.left.text] = Formulas(known).value(line.right.text)
        after = known[f"{self.weight}_{{t}}"]
        for text in [text for text in known if text.endswith("t}")]:
            known[f"{text[:-2]}t-1}}"] = known[text]
        return float(after)


def compare_with_oracle(
    page: PrintedDeclaration, node: ir.Optimizer, rule: ir.Rule, algorithm: PrintedAlgorithm
) -> None:
    """Three steps of a weight with one element, by the printed equations and by the oracle."""
    texts, names = hyper_values(page, node)
    is_matrix = rule.universe is Universe.MATRIX
    steps = Steps(algorithm, texts, "W" if is_matrix else r"\theta", "G" if is_matrix else "g")
    draws = np.random.default_rng(3)
    parameter = OracleParameter(draws.normal(size=(1, 1)), rule)
    for _ in range(3):
        grad, before = draws.normal(size=(1, 1)), float(parameter.value[0, 0])
        run_step([parameter], [grad], [names])
        found, expected = steps.step(before, float(grad[0, 0])), float(parameter.value[0, 0])
        scale = max(abs(expected - before), 1e-6)
        if math.isnan(expected):  # of one element, whose standard deviation is 0
            assert math.isnan(found), page.name
            return
        assert abs(found - expected) <= 1e-6 * scale + 1e-15, f"{page.name}: {found} and not {expected}"


def rules_with_pages(path: Path) -> Iterator[tuple[PrintedDeclaration, ir.Optimizer, ir.Rule, PrintedAlgorithm]]:
    """Rules as they are before any pass, so that the oracle computes what the spec says."""
    program = WORKSPACE.snapshot(path).require()
    for page, node in zip(pages_of(path), (*program.declarations, *program.wrappers), strict=True):
        for rule, algorithm in zip(node.rules, page.algorithms, strict=False) if isinstance(node, ir.Optimizer) else ():
            if not any(isinstance(each, ast.Delegate) for each in rule.written):  # those of another spec, again
                yield page, node, rule, algorithm


# Rules that are read back are most of all; others orthogonalize, have matrices or call functions by their names.
def test_printed_equations_have_the_values_of_the_oracle() -> None:
    compared, unreadable = 0, []
    for path in SHIPPED:
        for page, node, rule, algorithm in rules_with_pages(path):
            try:
                compare_with_oracle(page, node, rule, algorithm)
                compared += 1
            except Unreadable as problem:
                unreadable.append(f"{page.name} {rule.name}: {problem}")
    assert compared >= 80, unreadable


# Golden files

GOLDEN = {
    "namo": "NAMO",
    "adamw": "AdamW",
    "soap": "SOAP",
    "sinkgd": "SinkGD",
    "sophia": "SophiaG",
    "wsd": "WSD",
    "schedule_free": "ScheduleFree",
    "cautious_adamw": "AdamW |> Cautious |> Lookahead(alpha=0.3)",
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("target", [LATEX, MARKDOWN], ids=lambda target: target.name)
def test_golden_documents(name: str, target: object) -> None:
    """What a reader has seen and found good."""
    assert target in (LATEX, MARKDOWN)
    made = LATEX if target is LATEX else MARKDOWN
    source, folder = source_of(GOLDEN[name])
    program = documented_program(WORKSPACE.snapshot_of(source, folder).require(), made.rewrites)
    text = made.render(program, Origin(f"{name}.opt", ""))
    path = CASES / f"{name}.{'tex' if made is LATEX else 'md'}"
    if os.environ.get("OPTFORGE_UPDATE") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "OPTFORGE_UPDATE=1 rewrites the expected texts"


# A real LaTeX


@pytest.mark.wide
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_of_all_specs_is_set_without_a_complaint(tmp_path: Path) -> None:
    """No error, and no line that runs over its margin."""
    texts = [LATEX.render(program_of(path), origin_of(path)) for path in SHIPPED]
    bodies = [re.split(r"\\(?:begin|end)\{document\}", text) for text in texts]
    whole = bodies[0][0] + r"\begin{document}" + "\n\\newpage\n".join(body for _, body, _ in bodies) + r"\end{document}"
    (tmp_path / "all.tex").write_text(whole, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    log = (tmp_path / "all.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-2000:]
    assert not re.findall(r"^Overfull.*$", log, re.MULTILINE)
    assert "undefined" not in log.lower()
