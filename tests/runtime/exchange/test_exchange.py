"""Exchanges between ranks, on processes that talk by gloo."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import Pool, RankError


def sum_of_ranks(group: dist.ProcessGroup) -> float:
    rank = torch.tensor(float(dist.get_rank(group)))
    dist.all_reduce(rank, group=group)
    return rank.item()


def fail_on_one(group: dist.ProcessGroup) -> None:
    if dist.get_rank(group) == 1:
        raise ValueError("an error of rank 1")


def test_the_pool_survives_a_failure(ranks: Pool) -> None:
    assert [ranks.run(world, sum_of_ranks) for world in (1, 2, 3, 4)] == [[0], [1] * 2, [3] * 3, [6] * 4]
    with pytest.raises(RankError, match="an error of rank 1"):
        ranks.run(2, fail_on_one)
    assert ranks.run(3, sum_of_ranks) == [3] * 3
