"""Rules on shards of matrices, on ranks that talk by gloo, beside the same rules in one process."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from optforge.runtime.exchange.communication import Communication
from optforge.runtime.exchange.drive import Run, _drive
from optforge.runtime.exchange.over import Over
from optforge.runtime.exchange.sharding import Ranks, Sharding
from tests.runtime.exchange.rules import RULES
from tests.runtime.exchange.worlds import STEPS, Batch, Outcome, assembled, step_shards, stepped_alone, weights
from tests.support.ranks import Pool, RankError

# Uneven shards, empty ones from three ranks on (4 rows on 3 ranks), owners of nothing, blocks of a convolution,
# transposed parameters, and more batches than are under way at a time.
SIZES = [(3, 10, 8), (1, 4, 6), (2, 5, 18, 9), (5, 7, 3, 1, True), (1, 2, 2)]


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


def error(found: Tensor, expected: Tensor, start: Tensor) -> float:
    """Relative to the way from the start."""
    return ((found.view_as(expected) - expected).abs().max() / (expected - start.view_as(expected)).abs().max()).item()


def require_agreement(ranks: Pool, batches: Sequence[Batch], world: int, dim: str) -> None:
    """Each rank's shards are those of one process, to 1e-9 of a step."""
    outcomes: list[Outcome] = ranks.run(world, step_shards, batches, dim, torch.float64)
    for batch, found in zip(batches, assembled(batches, dim, outcomes), strict=True):
        expected = stepped_alone(batch, torch.float64)
        for i, (x, y) in enumerate(zip(found, expected, strict=True)):
            assert error(x, y, torch.zeros_like(y) if i else weights(batch, torch.float64)) < 1e-9
    if world == 1:
        assert not any(record.rounds for record in outcomes[0].records)


@pytest.mark.parametrize("dim", ["rows", "cols"])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_shards_step_as_whole_matrices(ranks: Pool, rule: str, world: int, dim: str) -> None:
    require_agreement(ranks, [Batch(rule, *sizes) for sizes in SIZES], world, dim)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ["muon", "soap"])
def test_shards_may_end_inside_the_parts_of_a_matrix(ranks: Pool, rule: str, world: int) -> None:
    batches = [Batch(rule, 3, 10, 8, parts=2), Batch(rule, 1, 9, 4, parts=3), Batch(rule, 2, 6, 5)]
    require_agreement(ranks, batches, world, "rows")


@pytest.mark.parametrize("dim", ["rows", "cols"])
@pytest.mark.parametrize("world", [2, 4])
def test_what_is_computed_of_whole_matrices_has_the_same_bits(ranks: Pool, world: int, dim: str) -> None:
    batches = [Batch("muon", 4, 24, 16), Batch("muon", 1, 9, 40)]
    outcomes = ranks.run(world, step_shards, batches, dim, torch.float32)
    for batch, found in zip(batches, assembled(batches, dim, outcomes), strict=True):
        for x, y in zip(found, stepped_alone(batch, torch.float32), strict=True):
            assert torch.equal(x, y)


# Of a step: rounds, and how often each collective is called.
COUNTS = {
    ("muon", "rows"): (2, {"all_to_all": 2}),
    ("muon", "cols"): (2, {"all_to_all": 2}),
    ("normuon", "rows"): (3, {"all_to_all": 2, "all_reduce": 1}),
    ("normuon", "cols"): (3, {"all_to_all": 2, "all_reduce": 1}),
    ("namo", "rows"): (2, {"all_to_all": 2, "all_reduce": 1}),
    ("lamb", "rows"): (1, {"all_reduce": 1}),
    ("reductions", "rows"): (2, {"all_reduce": 4}),
    ("reductions", "cols"): (2, {"all_reduce": 3}),
    ("soap", "rows"): (2, {"all_to_all": 2}),
    ("soap", "cols"): (3, {"all_to_all": 2, "all_reduce": 1}),
}


@pytest.mark.parametrize(("rule", "dim"), COUNTS)
def test_rounds_and_calls_are_as_few_as_they_can_be(ranks: Pool, rule: str, dim: str) -> None:
    rounds, calls = COUNTS[rule, dim]
    for outcome in ranks.run(3, step_shards, [Batch(rule, 2, 4, 6)], dim, torch.float64):
        (record,) = outcome.records
        assert record.rounds == rounds * STEPS
        assert record.calls == {kind: count * STEPS for kind, count in calls.items()}


@pytest.mark.parametrize("dim", ["rows", "cols"])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_nothing_is_sent_but_shards_to_owners_and_back(ranks: Pool, world: int, dim: str) -> None:
    batch = Batch("muon", 12, 24, 12)
    expected = 2 * 12 * (24 * 12) * 4 * (world - 1) // world**2
    for outcome in ranks.run(world, step_shards, [batch], dim, torch.float32):
        assert outcome.records[0].bytes == {"all_to_all": expected * STEPS}


def test_uneven_shards_are_not_padded(ranks: Pool) -> None:
    """One matrix of five rows on four ranks: 2, 2, 1 and none, and the first rank owns it."""
    outcomes = ranks.run(4, step_shards, [Batch("muon", 1, 5, 6)], "rows", torch.float32)
    sent = [outcome.records[0].bytes["all_to_all"] for outcome in outcomes]
    assert sent == [rows * 6 * 4 * STEPS for rows in (3, 2, 1, 0)]


def largest(group: dist.ProcessGroup, pieces: Sequence[Sequence[float]]) -> list[float]:
    """The largest element of each of two matrices of one column, of which each rank has a piece."""
    ranks = Ranks.of(group)
    extents = tuple(len(piece) // 2 for piece in pieces)
    over = Over(Sharding(ranks, sum(extents), 1, "rows", extents, (2, *[0] * (ranks.size - 1))))
    found: list[Tensor] = []

    def step() -> Generator[Any, Any, Tensor]:
        return (yield over.amax(torch.tensor(pieces[ranks.rank]).view(2, -1, 1), "all"))

    _drive([Run(step(), over, found.append, Communication())], Communication())
    return found[0].flatten().tolist()


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_nan_on_any_rank_is_the_largest_element(ranks: Pool, where: int) -> None:
    pieces = [[1.0, 2.0], [-math.inf, 5.0], [3.0, 4.0], []]
    assert ranks.run(4, largest, pieces) == [[3.0, 5.0]] * 4
    pieces[where][0] = math.nan
    for first, second in ranks.run(4, largest, pieces):
        assert math.isnan(first) and second == 5.0
    assert ranks.run(4, largest, [[-math.inf] * 2, [-math.inf] * 2, [], []]) == [[-math.inf] * 2] * 4


def failing(group: dist.ProcessGroup, where: str) -> tuple[list[str], list[bool], str]:
    """Five batches of one matrix, of which rank 1 fails with one: what has happened, which are finite, the error."""
    ranks = Ranks.of(group)
    log: list[str] = []
    results: list[Tensor] = []

    def centred(x: Tensor) -> Tensor:
        if where == "owner" and x[0, 0, 0] == 2:
            raise ArithmeticError("at the owner")
        return x - x.mean()

    def step(over: Over, number: int) -> Generator[Any, Any, Tensor]:
        log.append(f"step {number}")
        (u,) = yield over.whole(centred, torch.full((1, 1, 3), float(number)))
        return u

    def finish(u: Tensor) -> None:
        log.append("finished")
        results.append(u)
        if where == "finish" and len(results) == 2 and ranks.rank == 1:
            raise ArithmeticError("at the end")

    def meanwhile() -> None:
        log.append("meanwhile")
        if where == "meanwhile" and ranks.rank == 1:
            raise ArithmeticError("beside")

    lain = [Sharding(ranks, ranks.size, 3, "rows", (1,) * ranks.size, owned) for owned in [(1, 0), (0, 1)] * 3]
    overs = [Over(each) for each in lain[:5]]
    try:
        _drive(
            (Run(step(over, i), over, finish, Communication()) for i, over in enumerate(overs, 1)),
            Communication(),
            meanwhile,
        )
    except ArithmeticError as problem:
        return log, [bool(x.isfinite().all()) for x in results], str(problem)
    return log, [bool(x.isfinite().all()) for x in results], ""


def test_three_batches_are_under_way_while_others_compute(ranks: Pool) -> None:
    for log, finite, _ in ranks.run(2, failing, "nowhere"):
        assert log[:4] == ["step 1", "step 2", "step 3", "meanwhile"]
        assert log.index("step 4") == log.index("finished") + 1
        assert log.count("finished") == 5 and all(finite)


def turns(group: dist.ProcessGroup, count: int, rounds: int) -> list[str]:
    """What batches do in the order in which they do it: each asks in so many rounds, and ends."""
    ranks, log = Ranks.of(group), list[str]()
    lain = Sharding(ranks, ranks.size, 1, "rows", (1,) * ranks.size, (1, *[0] * (ranks.size - 1)))

    def step(over: Over, number: int) -> Generator[Any, Any, Tensor]:
        x = torch.ones(1, 1, 1)
        for turn in range(rounds):
            log.append(f"{number}{'abc'[turn]}")
            x = yield over.sum(x, "all")
        log.append(f"{number}.")
        return x

    overs = [Over(lain) for _ in range(count)]
    runs = (Run(step(over, i), over, lambda _: None, Communication()) for i, over in enumerate(overs, 1))
    _drive(runs, Communication(), lambda: log.append("meanwhile"))
    return log


def test_what_one_batch_waits_for_travels_while_others_compute(ranks: Pool) -> None:
    """Whole matrices come to their owners (a), are computed with (b), and have gone back (.)."""
    first, second = ranks.run(2, turns, 6, 2)
    assert first == second
    assert first == [
        "1a",
        "2a",
        "3a",
        "meanwhile",
        "1b",
        "2b",
        "1.",
        "4a",
        "3b",
        "2.",
        "5a",
        "4b",
        "3.",
        "6a",
        "5b",
        "4.",
        "6b",
        "5.",
        "6.",
    ]
    for rounds in (1, 2, 3):
        for count in range(6):
            log = ranks.run(2, turns, count, rounds)[0]
            log.remove("meanwhile")
            assert len(log) == count * (rounds + 1)
            for i in range(1, count + 1):
                assert [each[1:] for each in log if each[0] == str(i)] == [*"abc"[:rounds], "."]
            under_way = 0
            for each in log:
                under_way += each[1] == "a"
                assert under_way <= 3
                under_way -= each[1] == "."


@pytest.mark.parametrize(
    ("where", "message"), [("owner", "at the owner"), ("finish", "at the end"), ("meanwhile", "beside")]
)
def test_a_failure_on_one_rank_leaves_none_waiting(ranks: Pool, where: str, message: str) -> None:
    (first, finite, none), (second, _, problem) = ranks.run(2, failing, where)
    assert (none, problem) == ("", message)
    assert first == second and first.count("finished") == 5
    assert finite == [True, where != "owner", True, True, True]


def killed(group: dist.ProcessGroup, batches: Sequence[Batch]) -> None:
    """Steps, before which one rank is killed; an error ends the others, as it ends a program."""
    if dist.get_rank(group) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        step_shards(group, batches, "rows", torch.float64)
    except RuntimeError:
        os._exit(7)


@pytest.mark.wide
@pytest.mark.parametrize("rule", ["muon", "lamb"])
def test_a_killed_rank_is_an_error_on_the_others(ranks: Pool, rule: str) -> None:
    with pytest.raises(RankError) as raised:
        ranks.run(4, killed, [Batch(rule, *sizes) for sizes in SIZES])
    ends = ["ended with 7", "ended with -9", "ended with 7", "ended with 7"]
    assert str(raised.value).splitlines() == [f"rank {rank}: {end}" for rank, end in enumerate(ends)]
