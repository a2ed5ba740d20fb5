"""Collectives that are called, by anyone: how many of which kind, and the bytes that leave a rank for them.

An all_to_all sends what is for others. Of the other kinds the bytes are those of a ring, which sends least: all of a
tensor but one rank's part leaves each rank in an all_gather and in a reduce_scatter, and twice that in an all_reduce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

# By the operator's name: the kind, and which argument holds what a rank gives.
KINDS = {
    "alltoall_base_": ("all_to_all", 1),
    "all_to_all_single": ("all_to_all", 0),
    "allreduce_": ("all_reduce", 0),
    "all_reduce": ("all_reduce", 0),
    "_allgather_base_": ("all_gather", 1),
    "all_gather_into_tensor": ("all_gather", 0),
    "all_gather_into_tensor_out": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_tensor": ("reduce_scatter", 0),
}
SILENT = ("wait_tensor", "_wrap_tensor_autograd")


class Traffic(TorchDispatchMode):
    """What is called within, in groups of `size` ranks of which this one is `rank`.

    LookupError for a collective that is not known here.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size
        self.calls: Counter[str] = Counter()
        self.bytes = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # until DTensors have become what they are here
        if function.namespace in ("c10d", "_c10d_functional"):
            self._count(function._schema.name.partition("::")[2], args)
        return function(*args, **(kwargs or {}))

    def _count(self, name: str, args: Sequence[Any]) -> None:
        if name in SILENT:
            return
        kind, place = KINDS[name]
        given = args[place] if isinstance(args[place], Tensor) else args[place][0]
        self.calls[kind] += 1
        self.bytes += given.element_size() * self._elements(kind, given, args)

    def _elements(self, kind: str, given: Tensor, args: Sequence[Any]) -> float:
        if kind == "all_to_all":
            splits = args[4] if len(args) > 4 else args[2]  # those of what goes out; none for equal ones
            kept = splits[self.rank] / max(1, sum(splits)) if splits else 1 / self.size
            return given.numel() * (1 - kept)
        others = self.size - 1
        return given.numel() * {"all_gather": others, "reduce_scatter": others / self.size}.get(
            kind, 2 * others / self.size
        )
