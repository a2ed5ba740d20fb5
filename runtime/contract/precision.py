"""In which dtypes parameters compute and states are kept, and the state that a precision adds to the rule's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .interface import Rule, State

_States = Sequence[tuple[State, torch.dtype]]  # states with the dtypes in which they are kept


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Parameters below 32 bits compute, and keep their states, in float32."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def _precision_state(precision: str) -> State | None:
    return State(precision, ("rows", "cols")) if precision in ("kahan", "master") else None


def _states_of(rule: Rule, precision: str, dtype: torch.dtype) -> list[tuple[State, torch.dtype]]:
    """The states of parameters of this dtype, with their dtypes: the rule's, and the one that a precision needs."""
    states = [(state, _compute_dtype(dtype)) for state in rule.states]
    extra = _precision_state(precision) if dtype.itemsize < 4 else None
    return [*states, (extra, dtype if extra.name == "kahan" else _compute_dtype(dtype))] if extra else states
