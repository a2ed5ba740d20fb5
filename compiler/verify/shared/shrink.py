"""What fails made as small as it gets: greedily, one simplification after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


def simpler_numbers(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Shorter sequences of choices, and then those of smaller numbers."""
    sizes = [size for size in (len(numbers) >> power for power in range(1, len(numbers).bit_length())) if size]
    for size in sizes:
        for end in range(len(numbers), 0, -size):
            yield (*numbers[: max(0, end - size)], *numbers[end:])
    for size in (8, 1):
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            if any(part):
                yield (*numbers[:start], *[0] * len(part), *numbers[start + size :])
    for place, number in enumerate(numbers):
        for less in dict.fromkeys((number // 2, number - 1)):
            if 0 < less < number:
                yield (*numbers[:place], less, *numbers[place + 1 :])
