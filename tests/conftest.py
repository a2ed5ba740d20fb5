"""Options that put the tests on another machine: they must pass on every one that torch supports.

`--bfloat16 yes` and `--bfloat16 no` say whether processors multiply bfloat16, whatever this one does, and with
`--round-otherwise` torch's CPU kernels round as others might (see `roundings.py`). Both are for looking: `make test`
needs neither.

What torch compiles is kept apart by the instructions that it is compiled for. Inductor's cache on disk is not: with it,
a run with narrower vectors (ATEN_CPU_CAPABILITY) would use the loops of one with wider ones, which then compute every
second element.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from optforge.runtime.linalg import orthogonal
from tests.support import roundings
from tests.support.ranks import Pool
from tests.support.torchvision_operators import declare_operators

declare_operators()

if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    folder = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{capability}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bfloat16", choices=("yes", "no"), help="whether processors multiply bfloat16")
    parser.addoption("--round-otherwise", action="store_true", help="let torch's kernels round as others might")


@pytest.fixture(autouse=True, scope="session")
def machine(pytestconfig: pytest.Config) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if multiplies := pytestconfig.getoption("--bfloat16"):
            patch.setattr(orthogonal, "_onednn_multiplies_bfloat16", lambda: multiplies == "yes")
        if pytestconfig.getoption("--round-otherwise"):
            with roundings.otherwise():
                yield
        else:
            yield


@pytest.fixture(scope="session")
def ranks() -> Iterator[Pool]:
    """Processes that talk to each other, see `tests/support/ranks.py`."""
    pool = Pool()
    yield pool
    pool.close()
