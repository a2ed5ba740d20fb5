"""`over`: what the function of a rule for shards asks other ranks for, and gets when it is resumed.

A request is a generator of rounds: it yields messages, is sent what they have become, and returns the answer. Where
nothing crosses between ranks it returns at once, so that one function serves every placement of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..linalg.narrow import Narrow, _narrow
from ..linalg.norms import norm
from ..linalg.orthogonal import orthogonalize
from .packing import Message, Partial, _from_owners, _to_owners
from .sharding import FULL, Dims, Sharding

Request = Generator[Sequence[Message], Sequence[Tensor], Any]

_AXES = {"all": (-2, -1), "row": (-1,), "col": (-2,)}  # what a reduction per all, row or col adds up


@dataclass(frozen=True)
class _Stays:
    """What an owner has beside what is sent to it, and how many values it leaves for a later call."""

    there: Sequence[Tensor]
    owned: Sequence[Tensor]
    leaves: int

    def as_before(self, like: Tensor) -> list[Tensor]:
        """What stays where nothing is computed."""
        return [*(like.new_empty(0, 1, 1) for _ in range(self.leaves)), *self.owned]


class Over:
    """The matrices of a batch over the ranks that have their shards.

    Reductions are per "all", "row" or "col", and keep their dimensions; `dims` says which sides their argument has, as
    one side of 1 and a shard of one row look alike. Partial results travel in float64.
    """

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        self.failure: Exception | None = None  # of a function of whole matrices, while others wait for its results

    def sum(self, x: Tensor, per: str, dims: Dims = FULL) -> Request:
        axes = _AXES[per]
        if not self._is_partial(axes, dims):
            return x.sum(dim=axes, keepdim=True)
        (total,) = yield [Partial(x.sum(dim=axes, keepdim=True, dtype=torch.float64), "sum")]
        return total.to(x.dtype)

    def mean(self, x: Tensor, per: str, dims: Dims = FULL) -> Request:
        axes = _AXES[per]
        if not self._is_partial(axes, dims):
            return x.mean(dim=axes, keepdim=True)
        (total,) = yield [Partial(x.sum(dim=axes, keepdim=True, dtype=torch.float64), "sum")]
        sizes = self.sharding.sizes(dims)
        return (total / math.prod(sizes[axis] for axis in axes)).to(x.dtype)

    def dot(self, x: Tensor, y: Tensor, per: str, dims: Dims = FULL) -> Request:
        return self.sum(x * y, per, dims)

    def norm(self, x: Tensor, per: str, dims: Dims = FULL) -> Request:
        axes = _AXES[per]
        if not self._is_partial(axes, dims):
            return norm(x, axes)
        partial = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float64)
        (total,) = yield [Partial(partial.square(), "sum")]
        return total.sqrt().to(x.dtype)

    def amax(self, x: Tensor, per: str, dims: Dims = FULL) -> Request:
        axes = _AXES[per]
        if not self._is_partial(axes, dims):
            return x.amax(dim=axes, keepdim=True)
        shape = [1 if axis - 2 in axes else size for axis, size in enumerate(x.shape[-2:])]
        empty = x.new_full((*x.shape[:-2], *shape), -math.inf)
        (largest,) = yield [Partial((x.amax(dim=axes, keepdim=True) if x.numel() else empty).double(), "max")]
        return largest.to(x.dtype)

    def amin(self, x: Tensor, per: str, dims: Dims = FULL) -> Request:
        return -(yield from self.amax(-x, per, dims))

    def whole(
        self,
        function: Callable[..., Any],
        *values: Tensor,
        dims: Sequence[Dims] = (),
        gives: Sequence[Dims] = (FULL,),
        there: Sequence[Tensor] = (),
        owned: Sequence[Tensor] = (),
        leaves: int = 0,
        **scalars: Any,
    ) -> Request:
        """What `function(*values, *there, *owned, **scalars)` gives for whole matrices, each on the rank that owns it.

        It returns results of the dimensions `gives`, which become shards again, and then what stays with the owner: as
        many values as it `leaves` there, and new values of `owned`. What stays is of the matrices of this rank alone,
        as are `there` and `owned`. The answer is a tuple of all. Values are full unless `dims` says what each is.
        Results have the dtype of the first value. On ranks that own nothing the function is not called.
        """
        dims = dims or (FULL,) * len(values)
        sharding = self.sharding
        is_plain = (*dims,) == (*gives,) == (FULL,) and sharding.is_cut and sharding.parts == 1
        if function is orthogonalize and is_plain:
            narrow = _narrow(values[0], sharding.sizes(FULL), **scalars)
            if narrow is not None:
                return (yield from self._narrowed(values[0], narrow))
        travelling = [sharding.cuts(each) for each in dims]
        sent = [_to_owners(x, d, sharding) for x, d, travels in zip(values, dims, travelling, strict=True) if travels]
        arrived = iter((yield sent) if sent else ())
        whole = [
            self._parted(next(arrived), each) if travels else self._own(x, each)
            for x, each, travels in zip(values, dims, travelling, strict=True)
        ]
        stays = _Stays(there, owned, leaves)
        results, kept = self._results(function, whole, gives, stays, scalars)
        spread = [self._joined(x, each) for x, each in zip(results, gives, strict=True)]
        if sharding.is_cut and spread:
            return (*(yield [_from_owners(x, each, sharding) for x, each in spread]), *kept)
        return (*(x for x, _ in spread), *kept)

    def _narrowed(self, x: Tensor, narrow: Narrow) -> Request:
        """The same in a dtype of fewer bits, in which matrices travel: norms are added up before."""
        (squares,) = yield [Partial(narrow.squares(x), "sum")]
        (found,) = yield from self.whole(narrow.iterated, narrow.divided(x, squares))
        return (found.to(x.dtype),)

    def _is_partial(self, axes: tuple[int, ...], dims: Dims) -> bool:
        """Whether what a rank can add up of a value of these dimensions is not all of it."""
        if not self.sharding.is_cut or self.sharding.dim not in {dims[axis] for axis in axes}:
            return False
        if self.sharding.parts > 1:
            raise NotImplementedError("a reduction over shards of matrices that are split")
        return True

    def _own(self, x: Tensor, dims: Dims) -> Tensor:
        """Of a value that all ranks have what belongs to the matrices of this one, which see their parts apart."""
        if self.sharding.is_cut:
            mine, per = self.sharding.mine, 1 if "rows" in dims else self.sharding.parts
            x = x[mine.start * per : mine.stop * per]
        return self._parted(x, dims)

    def _parted(self, x: Tensor, dims: Dims) -> Tensor:
        """The parts of whole matrices as matrices of their own."""
        parts = self.sharding.parts
        if parts == 1 or "rows" not in dims:
            return x
        if dims[0] != "rows":
            return self._parted(x.mT, dims[::-1]).mT
        return x.reshape(-1, x.shape[-2] // parts, x.shape[-1])

    def _joined(self, x: Tensor, dims: Dims) -> tuple[Tensor, Dims]:
        """The reverse of `_parted`; what is one value for each part becomes one for each of its rows."""
        parts, (rows, _) = self.sharding.parts, self.sharding.sizes(FULL)
        if parts == 1:
            return x, dims
        if dims[0] == "cols":
            x, dims = self._joined(x.mT, dims[::-1])
            return x.mT, dims[::-1]
        if "rows" not in dims:
            x = x.expand(-1, rows // parts, -1)
        return x.reshape(-1, rows, x.shape[-1]), ("rows", dims[1])

    def _results(
        self,
        function: Callable[..., Any],
        values: Sequence[Tensor],
        gives: Sequence[Dims],
        stays: _Stays,
        scalars: dict[str, Any],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """What the function gives for the matrices of this rank, and what stays here.

        If it fails while others wait, the results are NaN, and `failure` is to be raised when nothing is under way.
        """
        given = (*values, *stays.there, *stays.owned)
        count = self.sharding.owned[self.sharding.ranks.rank] if self.sharding.is_cut else 0
        if self.sharding.is_cut and (not count or self.failure):
            return self._filled(gives, given[0], count), stays.as_before(given[0])
        try:
            found = function(*given, **scalars)
        except Exception as problem:
            if not self.sharding.is_cut:
                raise
            self.failure = problem
            return self._filled(gives, given[0], count), stays.as_before(given[0])
        results = found if isinstance(found, tuple) else (found,)
        if not self.sharding.is_cut:
            return results[: len(gives)], results[len(gives) :]
        shaped = [self._shaped(x, each, given[0], count) for x, each in zip(results, gives, strict=False)]
        return shaped, results[len(gives) :]

    def _shaped(self, x: Any, dims: Dims, like: Tensor, count: int) -> Tensor:
        """A result in the shape that its dimensions say, where it may be a number or have one value for many."""
        value: Tensor = x if isinstance(x, Tensor) else like.new_full((1, 1, 1), x)
        shape = (count * self.sharding.parts, *self._part_sizes(dims))
        return value if tuple(value.shape) == shape else value.expand(shape)

    def _filled(self, gives: Sequence[Dims], like: Tensor, count: int) -> list[Tensor]:
        """Results of NaN for so many matrices."""
        return [like.new_full((count * self.sharding.parts, *self._part_sizes(each)), math.nan) for each in gives]

    def _part_sizes(self, dims: Dims) -> tuple[int, int]:
        sizes, parts = self.sharding.sizes(dims), self.sharding.parts
        first, second = (size // parts if dim == "rows" else size for dim, size in zip(dims, sizes, strict=True))
        return first, second
