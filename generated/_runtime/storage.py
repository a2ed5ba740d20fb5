"""The memory of parameters: each must own its elements, as steps write parameters apart and in any order.

In: the parameters of an optimizer. Out: errors that name those which share elements. It does not look at gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def _require_own_elements(p: Tensor, name: str) -> None:
    """RuntimeError if p is expanded, so that one element of memory stands for several of its own."""
    if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise RuntimeError(f"{name} is expanded: several of its elements are one in memory; clone() it before")


def _require_apart(params: Iterable[Tensor]) -> None:
    """ValueError if two of the parameters start at the same element of memory: a step of one would undo the other's."""
    seen: dict[tuple[int, object], Tensor] = {}
    for p in params:
        other = seen.setdefault((p.untyped_storage()._cdata, p.storage_offset()), p)
        if other is not p and p.numel() and other.numel():
            shapes = f"{tuple(other.shape)} and {tuple(p.shape)}"
            raise ValueError(
                f"two parameters, of shapes {shapes}, share their memory; make them one parameter, or clone() one"
            )
