"""What is combined between two stages of a step: of all parameters, or of the shards of one.

A stage that combines over parameters runs for all of these that have a gradient, those of other rules too where it does
not say that they do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from optforge.compiler.ir.types import Type


class Combination(Enum):
    """How values are combined."""

    SUM = "sum"
    MAX = "max"
    GATHER = "gather"


class Over(Enum):
    """Whose values are combined."""

    PARAMETERS = "parameters"  # all that take part, those of other rules too
    OF_RULE = "parameters of the rule"
    ROW_SHARDS = "row shards"  # of one matrix that is cut between rows
    COL_SHARDS = "col shards"  # of one matrix that is cut between columns


@dataclass(frozen=True, slots=True)
class Collective:
    """Combines the output ``name`` of its stage; later stages read the result as an input of that name and type."""

    name: str
    kind: Combination
    over: Over
    type: Type
