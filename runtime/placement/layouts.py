"""Layouts: which part of a DTensor parameter this rank has.

In: a parameter. Out: where its local tensor lies in it, or an error for placements that no rule runs on. Which rules
run on a part is decided in `slots`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Layout:
    """The part of a parameter of shape `whole` that a rank has, of shape `shape`.

    `cuts` are the dimensions of the mesh over which it is sharded, each with the dimension along which; there are none
    where each rank has all of the parameter. A mesh dimension of one rank cuts nothing, whatever its placement. A rule
    that asks other ranks runs where there is one cut alone, which `mesh_dim` and `dim` are.
    """

    mesh: DeviceMesh
    placements: tuple[Any, ...]
    whole: torch.Size
    shape: torch.Size
    cuts: tuple[tuple[int, int], ...] = ()

    @property
    def mesh_dim(self) -> int | None:
        return self.cuts[0][0] if self.cuts else None

    @property
    def dim(self) -> int | None:
        return self.cuts[0][1] if self.cuts else None

    @property
    def offset(self) -> int:
        """The index in the whole of the first element that is here, along `dim`."""
        return 0 if self.dim is None else self.first[self.dim]

    @property
    def is_cut(self) -> bool:
        return bool(self.cuts)

    @property
    def ranks(self) -> int:
        """How many ranks share the parameter."""
        return 1 if self.mesh_dim is None else self.mesh.size(self.mesh_dim)

    @property
    def rank(self) -> int:
        """Which of these this one is."""
        return 0 if self.mesh_dim is None else self.mesh.get_local_rank(self.mesh_dim)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The ranks that together have the parameter, this one among them."""
        return None if self.mesh_dim is None else self.mesh.get_group(self.mesh_dim)

    @property
    def first(self) -> tuple[int, ...]:
        """In each dimension, the index in the whole of the first element that is here."""
        return tuple(self.part(size, dim)[0] for dim, size in enumerate(self.whole))

    def parts(self, size: int) -> list[tuple[int, int]]:
        """Offset and length of the part that each rank has of a dimension of this size, as torch cuts it."""
        chunk = -(-size // self.ranks)
        starts = [min(size, chunk * rank) for rank in range(self.ranks)]
        return [(start, min(chunk, size - start)) for start in starts]

    def part(self, size: int, dim: int) -> tuple[int, int]:
        """Offset and length of the part that this rank has of a size that is cut as dimension `dim` of the parameter.

        What several dimensions of the mesh cut is cut by one after the other.
        """
        start, length = 0, size
        for mesh_dim in (mesh_dim for mesh_dim, each in self.cuts if each == dim):
            chunk = -(-length // self.mesh.size(mesh_dim))
            before = min(length, chunk * self.mesh.get_local_rank(mesh_dim))
            start, length = start + before, min(chunk, length - before)
        return start, length

    def holds(self, x: Tensor) -> bool:
        """Whether a DTensor of the same shape is cut in the same way."""
        return _is_dtensor(x) and x.placements == self.placements and x.device_mesh == self.mesh


def _is_dtensor(x: object) -> TypeGuard[Any]:
    """Whether x is a DTensor, whose module takes a second to import and is not loaded where there is none."""
    return hasattr(x, "placements")


def _local(x: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    if not _is_dtensor(x):
        return x
    with torch.no_grad():
        part: Tensor = x.to_local()
    return part


def _layout_of(p: Any, name: str) -> Layout:
    """The layout of a parameter; NotImplementedError for placements that no rule runs on."""

    def refuse(reason: str) -> NotImplementedError:
        return NotImplementedError(f"{name} is a DTensor with the placements {p.placements}: {reason}")

    mesh, placements = p.device_mesh, tuple(p.placements)
    if any(each.is_partial() for each in placements):
        raise refuse("its ranks have summands of its elements, not elements; redistribute it")
    kinds = {type(each).__name__ for each in placements} - {"Shard", "Replicate"}
    if kinds:
        raise refuse(f"of parts that lie in each other, as {', '.join(sorted(kinds))} has them, no rule is run yet")
    if mesh.get_coordinate() is None:
        raise refuse("this rank is not part of its mesh")
    cuts = [(i, each.dim % p.ndim) for i, each in enumerate(placements) if each.is_shard() and mesh.size(i) > 1]
    layout = Layout(mesh, placements, p.shape, p.shape, tuple(cuts))
    layout = replace(layout, shape=torch.Size([layout.part(size, dim)[1] for dim, size in enumerate(p.shape)]))
    found = tuple(_local(p).shape)
    if found != tuple(layout.shape):
        raise refuse(f"this rank has a part of shape {found}, where torch would cut one of {tuple(layout.shape)}")
    return layout
