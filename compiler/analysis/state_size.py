"""How many numbers a rule keeps from step to step, as a polynomial in rows and cols.

Step counts and the precision modes' copies are not counted: they belong to the generated class, not to the method.
"""

from __future__ import annotations

from collections.abc import Iterable

from optforge.compiler.analysis.polynomials import Polynomial, size_of
from optforge.compiler.ir import nodes as ir


def state_of(states: Iterable[ir.State]) -> Polynomial:
    """How many numbers these states are."""
    total = Polynomial()
    for state in states:
        assert state.type.shape is not None
        total += size_of(state.type.shape)
    return total
