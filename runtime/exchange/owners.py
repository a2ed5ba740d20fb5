"""Owners: which rank computes with which whole matrices.

In: what the whole matrices of a model cost, and which of them travel together, in an order that is the same on all
ranks. Out: for each the rank that owns it. Only global shapes are looked at, so that all ranks find the same without
asking each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any


def _flops_of_whole(rows: int, cols: int) -> int:
    """About what a function of a whole matrix costs, as orthogonalization does it.

    A Gram matrix of the shorter side is computed and multiplied with the matrix, and between the two there are some
    twenty products of the size of the Gram matrix, which decompositions cost as well.
    """
    side = min(rows, cols)
    return 4 * side * rows * cols + 26 * side**3


def _owners(flops: Sequence[int], kinds: Sequence[Any], ranks: int) -> list[int]:
    """The rank of each matrix: the costliest come first, and each goes to the rank that has least to do so far.

    Of equal cost those of one kind, which travel together, are dealt out before those of another, so that each rank has
    its share of every batch: who owns nothing in one would wait for the others.
    """
    loads = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(flops)
    for index in sorted(range(len(flops)), key=lambda each: (-flops[each], kinds[each])):
        load, rank = loads[0]
        owners[index] = rank
        heapq.heapreplace(loads, (load + flops[index], rank))
    return owners
