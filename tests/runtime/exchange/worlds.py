"""Batches of matrices stepped by one process, and by the ranks of a world that have shards of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optforge.runtime.exchange.communication import Communication
from optforge.runtime.exchange.drive import Run, _drive
from optforge.runtime.exchange.over import Over
from optforge.runtime.exchange.owners import _flops_of_whole, _owners
from optforge.runtime.exchange.sharding import FULL, Dims, Ranks, Sharding
from tests.runtime.exchange.rules import RULES

STEPS = 3


@dataclass(frozen=True)
class Batch:
    """So many matrices of a size; shards along cols have whole `block`s, and lie in memory as `transposed` says."""

    rule: str
    count: int
    rows: int
    cols: int
    block: int = 1
    transposed: bool = False
    parts: int = 1

    @property
    def sizes(self) -> dict[str | int, int]:
        return {"rows": self.rows, "cols": self.cols, 1: 1}

    @property
    def part_sizes(self) -> dict[str | int, int]:
        return {**self.sizes, "rows": self.rows // self.parts}

    def extents(self, dim: str, world: int) -> tuple[int, ...]:
        """As torch shards: equal pieces, of which the last ones are shorter or empty."""
        block = self.block if dim == "cols" else 1
        blocks = self.sizes[dim] // block
        piece = -(-blocks // world)
        return tuple(max(0, min(piece, blocks - rank * piece)) * block for rank in range(world))


@dataclass
class Outcome:
    """What a rank has after some steps: for each batch its values, and what it has sent."""

    values: list[list[Tensor]]
    records: list[Communication]


def weights(batch: Batch, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(batch.count + 100 * batch.rows)
    return torch.randn(batch.count, batch.rows, batch.cols, generator=generator, dtype=dtype)


def gradients(batch: Batch, dtype: torch.dtype) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(7 + batch.count + batch.cols)
    for _ in range(STEPS):
        yield torch.randn(batch.count, batch.rows, batch.cols, generator=generator, dtype=dtype)


def zeros(count: int, dims: Dims, sizes: Mapping[str | int, int], dtype: torch.dtype) -> Tensor:
    return torch.zeros(count, sizes[dims[0]], sizes[dims[1]], dtype=dtype)


def stepped_alone(batch: Batch, dtype: torch.dtype) -> list[Tensor]:
    """The weight and the states of whole matrices, parts apart, after some steps in one process."""
    rule, sizes = RULES[batch.rule], batch.part_sizes
    weight = weights(batch, dtype).view(-1, sizes["rows"], sizes["cols"])
    values: Sequence[Tensor] = [weight, *(zeros(len(weight), dims, sizes, dtype) for dims in rule.states.values())]
    for grad in gradients(batch, dtype):
        values = rule.plain(values[0], grad.view_as(weight), *values[1:], rows=sizes["rows"], cols=sizes["cols"])
    return list(values)


def shardings(batches: Sequence[Batch], dim: str | None, ranks: Ranks) -> list[Sharding]:
    """How each batch lies on the ranks, with owners balanced over all of them."""
    flops = [_flops_of_whole(batch.rows, batch.cols) for batch in batches for _ in range(batch.count)]
    sizes = [(batch.rows, batch.cols) for batch in batches for _ in range(batch.count)]
    owners = iter(_owners(flops, sizes, ranks.size))
    found = []
    for batch in batches:
        own = [next(owners) for _ in range(batch.count)]
        extents = batch.extents(dim, ranks.size) if dim else ()
        owned = tuple(own.count(rank) for rank in range(ranks.size))
        found.append(Sharding(ranks, batch.rows, batch.cols, dim, extents, owned, batch.parts))
    return found


def shard(x: Tensor, dims: Dims, sharding: Sharding, transposed: bool = False) -> Tensor:
    """The piece of a whole value that this rank has."""
    if sharding.cuts(dims):
        rank, axis = sharding.ranks.rank, dims.index(sharding.dim) - 2  # type: ignore[arg-type]
        x = x.narrow(axis, sum(sharding.extents[:rank]), sharding.extents[rank])
    return x.mT.contiguous().mT if transposed else x.contiguous()


def step_shards(group: dist.ProcessGroup, batches: Sequence[Batch], dim: str | None, dtype: torch.dtype) -> Outcome:
    """On each rank: all batches stepped together."""
    lain = shardings(batches, dim, Ranks.of(group))
    outcome = Outcome([], [Communication() for _ in batches])
    for batch, sharding in zip(batches, lain, strict=True):
        values = [shard(weights(batch, dtype), FULL, sharding, batch.transposed)]
        for name, dims in RULES[batch.rule].states.items():
            if name in RULES[batch.rule].owned:
                count = sharding.owned[sharding.ranks.rank] * batch.parts
                values.append(zeros(count, dims, batch.part_sizes, dtype))
            else:
                count = batch.count if "rows" in dims else batch.count * batch.parts
                values.append(shard(zeros(count, dims, batch.sizes, dtype), dims, sharding))
        outcome.values.append(values)
    for grads in zip(*(gradients(batch, dtype) for batch in batches), strict=True):
        local = [shard(g, FULL, s, b.transposed) for g, s, b in zip(grads, lain, batches, strict=True)]
        runs = (begin(outcome, batches[i].rule, i, local[i], sharding) for i, sharding in enumerate(lain))
        _drive(runs, Communication())
    return outcome


def begin(outcome: Outcome, name: str, index: int, grad: Tensor, sharding: Sharding) -> Run:
    over = Over(sharding)
    sizes = {"rows": sharding.rows // sharding.parts, "cols": sharding.cols}
    weight, *states = outcome.values[index]
    step = RULES[name].shards(weight, grad, *states, over=over, **sizes)
    return Run(step, over, finisher(outcome, index), outcome.records[index])


def finisher(outcome: Outcome, index: int) -> Callable[[Any], None]:
    def finish(values: Any) -> None:
        outcome.values[index] = list(values)

    return finish


def assembled(batches: Sequence[Batch], dim: str, outcomes: Sequence[Outcome]) -> list[list[Tensor]]:
    """The whole values, of all ranks, with those that all ranks have taken from the last."""
    lain = shardings(batches, dim, Ranks(None, 0, len(outcomes)))
    whole = []
    for index, (batch, sharding) in enumerate(zip(batches, lain, strict=True)):
        rule = RULES[batch.rule]
        dims = {"weight": FULL, **rule.states}
        pieces = zip(*(outcome.values[index] for outcome in outcomes), strict=True)
        joined = []
        for (name, each), found in zip(dims.items(), pieces, strict=True):
            if name in rule.owned:
                joined.append(torch.cat(found))
            elif sharding.cuts(each):
                joined.append(torch.cat(found, each.index(dim) - 2))
            else:
                assert all(torch.equal(x, found[0]) for x in found)
                joined.append(found[-1])
        whole.append(joined)
    return whole
