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
    """The part of a parameter of shape `whole` that a rank has: `shape`, from `offset` on along the dimension `dim`.

    `mesh_dim` is the dimension of the mesh over which it is sharded; it and `dim` are None where each rank has all of
    the parameter. A mesh dimension of one rank cuts nothing, whatever its placement.
    """

    mesh: DeviceMesh
    placements: tuple[Any, ...]
    whole: torch.Size
    shape: torch.Size
    mesh_dim: int | None = None
    dim: int | None = None
    offset: int = 0

    @property
    def is_cut(self) -> bool:
        return self.dim is not None

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
    def replicated(self) -> tuple[int, ...]:
        """The mesh dimensions along which all ranks have the same."""
        return tuple(i for i in range(self.mesh.ndim) if i != self.mesh_dim and self.mesh.size(i) > 1)

    @property
    def first(self) -> tuple[int, ...]:
        """In each dimension, the index in the whole of the first element that is here."""
        return tuple(self.offset if dim == self.dim else 0 for dim in range(len(self.whole)))

    def parts(self, size: int) -> list[tuple[int, int]]:
        """Offset and length of the part that each rank has of a dimension of this size, as torch cuts it."""
        chunk = -(-size // self.ranks)
        starts = [min(size, chunk * rank) for rank in range(self.ranks)]
        return [(start, min(chunk, size - start)) for start in starts]

    def part(self, size: int) -> tuple[int, int]:
        """Offset and length of the part that this rank has."""
        return (0, size) if self.mesh_dim is None else self.parts(size)[self.rank]

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
    cuts = [(i, each) for i, each in enumerate(placements) if each.is_shard() and mesh.size(i) > 1]
    if len(cuts) > 1:
        raise refuse("it is sharded over two dimensions of its mesh, and no rule is run on such parts yet")
    layout = Layout(mesh, placements, p.shape, p.shape)
    if cuts:
        mesh_dim, shard = cuts[0]
        layout = _cut(layout, mesh_dim, shard.dim % p.ndim)
    found = tuple(_local(p).shape)
    if found != tuple(layout.shape):
        raise refuse(f"this rank has a part of shape {found}, where torch would cut one of {tuple(layout.shape)}")
    return layout


def _cut(layout: Layout, mesh_dim: int, dim: int) -> Layout:
    """The layout of the same parameter where it is cut."""
    layout = replace(layout, mesh_dim=mesh_dim, dim=dim)
    offset, length = layout.part(layout.whole[dim])
    return replace(layout, shape=torch.Size((*layout.whole[:dim], length, *layout.whole[dim + 1 :])), offset=offset)
