"""In which dtypes parameters compute and memories are kept, and the memory that a precision adds to the rule's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .interface import Memory, Rule

_Memories = Sequence[tuple[Memory, torch.dtype]]  # memories with the dtypes in which they are kept


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Parameters below 32 bits compute, and keep their memories, in float32."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def _precision_memory(precision: str) -> Memory | None:
    return Memory(precision, ("rows", "cols")) if precision in ("kahan", "master") else None


def _memories_of(rule: Rule, precision: str, dtype: torch.dtype) -> list[tuple[Memory, torch.dtype]]:
    """The memories of parameters of this dtype, with their dtypes: the rule's, and the one that a precision needs."""
    memories = [(memory, _compute_dtype(dtype)) for memory in rule.memories]
    extra = _precision_memory(precision) if dtype.itemsize < 4 else None
    return [*memories, (extra, dtype if extra.name == "kahan" else _compute_dtype(dtype))] if extra else memories
