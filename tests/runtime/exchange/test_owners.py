"""Owners of whole matrices: how evenly the work lies on ranks."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from optforge.runtime.exchange.owners import _flops_of_whole, _owners

Shape = tuple[int, int]
GPT2_SMALL: list[Shape] = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
LLAMA_7B: list[Shape] = [*[(4096, 4096)] * 4, *[(11008, 4096)] * 2, (4096, 11008)] * 32


def slowest_over_mean(shapes: Sequence[Shape], ranks: int) -> float:
    flops = [_flops_of_whole(*shape) for shape in shapes]
    loads = [0] * ranks
    for owner, cost in zip(_owners(flops, shapes, ranks), flops, strict=True):
        loads[owner] += cost
    return max(loads) * ranks / sum(loads)


@pytest.mark.parametrize(
    ("shapes", "ranks", "expected"), [(GPT2_SMALL, 8, 1.02), (GPT2_SMALL, 32, 1.33), (LLAMA_7B, 64, 1.10)]
)
def test_the_work_is_balanced(shapes: list[Shape], ranks: int, expected: float) -> None:
    assert round(slowest_over_mean(shapes, ranks), 2) == expected


def test_each_rank_has_its_share_of_every_shape() -> None:
    """Of two shapes of one cost in turns, as the layers of a transformer have them, each is dealt out to all ranks."""
    shapes = [(3072, 768), (768, 3072)] * 12
    owners = _owners([_flops_of_whole(*shape) for shape in shapes], shapes, 2)
    for kind in ((3072, 768), (768, 3072)):
        assert sum(owner for owner, shape in zip(owners, shapes, strict=True) if shape == kind) == 6


@pytest.mark.parametrize("seed", range(20))
def test_no_rank_has_much_more_than_another(seed: int) -> None:
    """The rank with most to do was the one with least before its last matrix: the rest differ by one matrix at most."""
    dice = random.Random(seed)
    flops = [dice.randint(1, 1000) for _ in range(dice.randint(0, 60))]
    ranks = dice.randint(1, 9)
    owners = _owners(flops, flops, ranks)
    given = [[cost for owner, cost in zip(owners, flops, strict=True) if owner == rank] for rank in range(ranks)]
    assert sum(map(len, given)) == len(flops)
    least = min(map(sum, given))
    assert all(sum(each) - min(each) <= least for each in given if each)
