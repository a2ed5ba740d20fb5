"""Random programs: every way to run them agrees, and a way that is broken on purpose is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from optforge.compiler.fuzz.differential import Compiled, Disagreement, examine
from optforge.compiler.fuzz.programs import RandomProgram, programs

SLICES, PER_SLICE = 20, 105
QUICK = settings(
    max_examples=PER_SLICE,
    deadline=None,
    database=None,
    print_blob=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@pytest.mark.parametrize("number", range(SLICES))
def test_all_ways_agree(number: int) -> None:
    @seed(number)
    @QUICK
    @given(programs())
    def agrees(program: RandomProgram) -> None:
        examine(program)

    agrees()
