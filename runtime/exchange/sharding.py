"""Sharding: how a batch of equal matrices lies on ranks, as shards and, while they are whole, with their owners.

Nothing here knows parameters: rows and columns are those that a kernel sees, so that transposed parameters and the
blocks of convolutions have been counted before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

Dims = tuple[str | int, str | int]  # of a value: "rows", "cols", "rank" or 1 for each of its two dimensions
FULL: Dims = ("rows", "cols")


@dataclass(frozen=True)
class Ranks:
    """The processes that hold the shards of a parameter: the group of one dimension of its mesh, and this one in it."""

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> Ranks:
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    @property
    def members(self) -> tuple[int, ...]:
        """What the processes are called in the whole world."""
        return (self.rank,) if self.group is None else tuple(dist.get_process_group_ranks(self.group))


@dataclass(frozen=True)
class Sharding:
    """A batch of matrices of `rows` and `cols`, of which each rank has a piece along `dim`; None: all of it.

    `extents` are the lengths of the pieces, rank by rank, and `owned` how many matrices each rank owns: the first ones
    are those of rank 0. With `parts` every matrix is that many equal ones, one below the other, which functions of
    whole matrices see apart.
    """

    ranks: Ranks
    rows: int
    cols: int
    dim: str | None
    extents: tuple[int, ...]
    owned: tuple[int, ...]
    parts: int = 1
    rank: int = 0  # the size of the rule's own dimension

    @property
    def mine(self) -> slice:
        """Which matrices of the batch this rank owns."""
        start = sum(self.owned[: self.ranks.rank])
        return slice(start, start + self.owned[self.ranks.rank])

    @property
    def is_cut(self) -> bool:
        """Whether anything has to cross between ranks at all."""
        return self.dim is not None and self.ranks.size > 1

    def cuts(self, dims: Dims) -> bool:
        """Whether each rank has a piece only of a value of these dimensions."""
        return self.is_cut and self.dim in dims

    def sizes(self, dims: Dims) -> tuple[int, int]:
        """The whole value's."""
        known: dict[str | int, int] = {"rows": self.rows, "cols": self.cols, "rank": self.rank, 1: 1}
        return known[dims[0]], known[dims[1]]

    def sizes_on(self, rank: int, dims: Dims) -> tuple[int, int]:
        """Those of the piece of a value that a rank has; of a square the first side is cut."""
        rows, cols = self.sizes(dims)
        if not self.cuts(dims):
            return rows, cols
        return (self.extents[rank], cols) if dims[0] == self.dim else (rows, self.extents[rank])
