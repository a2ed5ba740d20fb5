"""What fails made as small as it gets: greedily, one simplification after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

Case = TypeVar("Case")
Failure = TypeVar("Failure")


def shrink(
    failure: Failure, simpler: Callable[[Failure], Iterable[Case]], retry: Callable[[Case], Failure | None]
) -> Failure:
    """A failure of which no simpler case fails as well.

    ``simpler`` lists simpler cases, those that leave out most first. ``retry`` gives the failure of such a case, None
    if it does not fail; it ends the search by giving None for everything. After a success the list is gone on with
    where it was, as what was tried before has little chance, until nothing of it has any.
    """
    is_done = False
    while not is_done:
        is_done, tried = True, 0
        while (found := next_failure(islice(simpler(failure), tried, None), retry)) is not None:
            count, failure = found
            is_done, tried = False, tried + count
    return failure


def next_failure(cases: Iterable[Case], retry: Callable[[Case], Failure | None]) -> tuple[int, Failure] | None:
    """The first of the cases that fails, and how many were passed over."""
    for count, case in enumerate(cases):
        found = retry(case)
        if found is not None:
            return count, found
    return None
