"""The table of shipped specs: its counts are those of real states, and its evidence that of the real tests."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import optforge.generated
from optforge.compiler.driver import check_file, check_source
from optforge.compiler.load import find_spec
from optforge.compiler.oracle.interpreter import Inputs, size_of_rank
from optforge.dsl.source import Source
from tests.references import REFERENCES
from tests.specs.test_torch_family import PAIRS
from tools import catalogue
from tools.evidence import find_evidence

ROOT = Path(__file__).parents[2]
ROWS, COLS = 6, 10
OPTIMIZERS = [name for name in optforge.generated.__all__ if hasattr(getattr(optforge.generated, name), "step")]
COUNTED = [name for name in OPTIMIZERS if issubclass(getattr(optforge.generated, name), torch.optim.Optimizer)]

SPEC = '''"""A method (arXiv 2602.17080, after 1412.6980)."""

# A comment on a line of its own.
optimizer Some:
    """More words.

    And more.
    """
    hyper lr = 1e-3 where lr >= 0  "has a # in it"

    for matrix:
        m = ema(grad, 0.9)
        l = ema(grad @ grad', 0.9)
        r = ema(norm(grad, per=row), 0.9)
        s = ema(norm(grad), 0.9)
        weight <- weight - lr * (l @ m) * r * s
    for rest:  # nothing kept
        weight <- weight - lr * grad
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one spec and the tests, as the current directory."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "some.opt").write_text(SPEC)
    shutil.copytree(ROOT / "tests" / "references", tmp_path / "tests" / "references")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(state: str, rank: int = 0, rows: int = ROWS, cols: int = COLS) -> float:
    """How many numbers the text of a state amounts to, for the matrix of these tests as a rule sees it."""
    first = state.split(";")[0].replace("rows cols", "rows * cols")
    sizes = {"rows": rows, "cols": cols, "r": rank}
    per_weight = eval(re.sub(r"(\d) (rows|cols|r)\b", r"\1 * \2", first), sizes)
    return per_weight * ROWS * COLS


@pytest.mark.parametrize("name", COUNTED)
def test_states_are_as_large_as_the_table_says(name: str) -> None:
    p = torch.nn.Parameter(torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1)))
    optimizer = getattr(optforge.generated, name)([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    kept = sum(math.prod(v.shape) for k, v in optimizer.state[p].items() if not re.search(r"(^|_)step$", k))
    declarations = check_file(find_spec(name)).require().declarations
    (declaration,) = (each for each in declarations if each.name == name)
    hypers = {hyper.name: hyper.default.value for hyper in declaration.hypers if hyper.default is not None}
    given = Inputs(np.zeros((ROWS, COLS)), hypers=hypers)
    ranks = [size_of_rank(rule.rank, given) for rule in declaration.rules if rule.rank]
    is_turned = any(rule.orientation == "tall" for rule in declaration.rules)
    seen = {"rows": COLS, "cols": ROWS} if is_turned else {}
    assert numbers(catalogue.state_of(declaration), *ranks, **seen) == pytest.approx(kept)


def test_a_state_is_written_as_a_sum_over_shapes() -> None:
    program = check_source(Source("some.opt", SPEC)).require()
    assert catalogue.state_of(program.declarations[0]) == "1 + rows/cols + 1/cols + 1/(rows cols); rest: 0"


def test_lines_are_those_that_say_something() -> None:
    assert catalogue.count_lines(SPEC) == 10


@pytest.mark.parametrize(
    "doc, paper",
    [
        ("Some (arXiv 2602.17080).", "[2602.17080](https://arxiv.org/abs/2602.17080)"),
        ("Muon, folded\nin lines (Keller\nJordan, 2024), and more (as in torch).", "Keller Jordan, 2024"),
        ("Constant (without a year).", "–"),
    ],
)
def test_papers_are_found_in_docstrings(doc: str, paper: str) -> None:
    assert catalogue.paper_of(doc) == paper


def test_evidence_is_what_the_tests_run_over() -> None:
    """The names read off the source are those that the test modules have when they are imported."""
    evidence = find_evidence(ROOT / "tests")
    classes = {name for name, kinds in evidence.items() if "reference" in kinds and name != name.lower()}
    assert classes == set(REFERENCES)
    assert {pair.ours for pair in PAIRS} | {"AdamW", "SGD", "Muon"} == {
        n for n, k in evidence.items() if "torch.optim" in k
    }
    assert evidence["uba"] == evidence["tscncofficial"] == ("reference",)


def test_names_of_torch_and_packages_count_where_they_are_compared(tmp_path: Path) -> None:
    (tmp_path / "test_torch_family.py").write_text('PAIRS = (Pair("Adam", torch.optim.Adam), Other("Lion"), Pair(x))\n')
    (tmp_path / "test_torch_agreement.py").write_text(
        "from optforge.generated import SGD, Lion\nfrom elsewhere import Rprop\ntorch.optim.SGD, torch.optim.Rprop\n"
    )
    (tmp_path / "test_peers.py").write_text('PEERS = [Peer("Adam", f"pack:Adam?{X}"), Peer("Tiger", "other:Tiger")]\n')
    assert find_evidence(tmp_path) == {"Adam": ("torch.optim", "pack"), "SGD": ("torch.optim",), "Tiger": ("other",)}


def test_the_page_is_written_once_and_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.main(["--check"]) == 1
    assert catalogue.main([]) == 0
    assert catalogue.main(["--check"]) == 0
    page = (project / "specs" / "README.md").read_text()
    papers = "[2602.17080](https://arxiv.org/abs/2602.17080), [1412.6980](https://arxiv.org/abs/1412.6980)"
    assert f"| [Some](some.opt) | 10 | 1 + rows/cols + 1/cols + 1/(rows cols); rest: 0 | {papers} | – |" in page
    capsys.readouterr()
    (project / "specs" / "some.opt").write_text(SPEC.replace("        s = ema", "        s = 2 * ema"))
    assert catalogue.main(["--check"]) == 0  # the table says nothing of factors
    (project / "specs" / "some.opt").write_text(SPEC.replace("* r * s", "* r * s * 2\n        claim s >= 0"))
    assert catalogue.main(["--check"]) == 1
    assert catalogue.COMMAND in capsys.readouterr().err


def test_what_cannot_be_expressed_is_listed(project: Path) -> None:
    (project / "specs" / "NOT_EXPRESSED.md").write_text("# Not expressed\n\n- Some other (2401.00001): a reason.\n")
    assert catalogue.main([]) == 0
    page = (project / "specs" / "README.md").read_text()
    assert page.endswith("## Not expressed\n\n- Some other (2401.00001): a reason.\n")


def test_a_wrong_spec_is_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "specs" / "some.opt").write_text(SPEC.replace("ema(grad, 0.9)", "ema(grd, 0.9)"))
    assert catalogue.main([]) == 1
    assert "unknown name `grd`" in capsys.readouterr().err
    assert not (project / "specs" / "README.md").exists()
