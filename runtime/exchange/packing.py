"""Packing: what is sent of a value to each rank, and how it is put together of what comes from each.

Nothing is padded: a shard without rows, or an owner without matrices, is a segment of no length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sharding import Dims, Sharding


@dataclass(frozen=True)
class Partial:
    """What one rank has of a sum or maximum, in float64; all get the whole of it."""

    value: Tensor
    kind: str  # "sum" or "max"


@dataclass(frozen=True)
class Shuffle:
    """`outgoing[rank]` goes to each rank; pieces of the shapes `incoming` come, and are joined along `axis`."""

    outgoing: Sequence[Tensor]
    incoming: Sequence[tuple[int, ...]]
    axis: int


Message = Partial | Shuffle


def _tensors_of(message: Message) -> list[Tensor]:
    """What is sent of a message."""
    return [message.value] if isinstance(message, Partial) else [*message.outgoing]


def _with_tensors(message: Message, tensors: Sequence[Tensor]) -> Message:
    """The message with others of the same shapes in their place."""
    if isinstance(message, Partial):
        return replace(message, value=tensors[0])
    return replace(message, outgoing=tensors)


def _arriving(message: Message) -> Tensor:
    """A tensor of the form that the message becomes, without values."""
    if isinstance(message, Partial):
        return torch.empty_like(message.value)
    shape = [*message.incoming[0]]
    shape[message.axis] = sum(each[message.axis] for each in message.incoming)
    return message.outgoing[0].new_empty(shape)


def _of_nan(message: Message) -> Message:
    """The message with NaN in the place of all values, of which it needs to have none."""
    filled = [torch.full([*x.shape], math.nan, dtype=x.dtype, device=x.device) for x in _tensors_of(message)]
    return _with_tensors(message, filled)


def _to_owners(x: Tensor, dims: Dims, sharding: Sharding) -> Shuffle:
    """Shards of all matrices (batch, ...) become whole values of the matrices that this rank owns."""
    mine = sharding.owned[sharding.ranks.rank]
    incoming = [(mine, *sharding.sizes_on(rank, dims)) for rank in range(sharding.ranks.size)]
    return Shuffle(torch.split(x, [*sharding.owned]), incoming, _axis(dims, sharding))


def _from_owners(x: Tensor, dims: Dims, sharding: Sharding) -> Shuffle:
    """Whole values of the matrices that this rank owns become shards of all; what is not cut goes to all ranks."""
    rank, size = sharding.ranks.rank, sharding.ranks.size
    incoming = [(owned, *sharding.sizes_on(rank, dims)) for owned in sharding.owned]
    outgoing = torch.split(x, [*sharding.extents], _axis(dims, sharding)) if sharding.cuts(dims) else [x] * size
    return Shuffle(outgoing, incoming, 0)


def _axis(dims: Dims, sharding: Sharding) -> int:
    return dims.index(sharding.dim) - len(dims)


def _pack_shuffles(shuffles: Sequence[Shuffle]) -> tuple[Tensor, list[int], list[int]]:
    """What goes to the ranks end to end, and the numbers of elements that go to and come from each."""
    ranks = range(len(shuffles[0].outgoing))
    pieces = [shuffle.outgoing[rank].reshape(-1) for rank in ranks for shuffle in shuffles]
    sent = [sum(shuffle.outgoing[rank].numel() for shuffle in shuffles) for rank in ranks]
    received = [sum(math.prod(shuffle.incoming[rank]) for shuffle in shuffles) for rank in ranks]
    return torch.cat(pieces), sent, received


def _unpack_shuffles(shuffles: Sequence[Shuffle], flat: Tensor) -> list[Tensor]:
    """The values that have come, put together."""
    ranks = range(len(shuffles[0].incoming))
    shapes = [shuffle.incoming[rank] for rank in ranks for shuffle in shuffles]
    pieces = [x.view(shape) for x, shape in zip(torch.split(flat, [*map(math.prod, shapes)]), shapes, strict=True)]
    if len(shuffles) == 1 and shuffles[0].axis == 0:  # they lie end to end
        return [flat.view(-1, *shapes[0][1:]) if math.prod(shapes[0][1:]) else torch.cat(pieces)]
    step = len(shuffles)
    return [torch.cat(pieces[index::step], shuffle.axis) for index, shuffle in enumerate(shuffles)]


def _pack_partials(partials: Sequence[Partial]) -> Tensor:
    """The partial results end to end; maxima with a flag for each that is NaN, which a maximum over ranks may drop."""
    flat = torch.cat([partial.value.reshape(-1) for partial in partials])
    if partials[0].kind == "sum":
        return flat
    return torch.cat([flat.nan_to_num(-math.inf, math.inf, -math.inf), flat.isnan().to(flat.dtype)])


def _unpack_partials(partials: Sequence[Partial], flat: Tensor) -> list[Tensor]:
    """The whole results in the shapes of the partial ones."""
    if partials[0].kind == "max":
        largest, is_nan = flat.chunk(2)
        flat = torch.where(is_nan > 0, math.nan, largest)
    pieces = torch.split(flat, [partial.value.numel() for partial in partials])
    return [piece.view(partial.value.shape) for piece, partial in zip(pieces, partials, strict=True)]
