"""Optimizers whose rules need whole matrices, on DTensors, beside one process that has everything."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor, Replicate

from optforge import generated
from optforge.compiler.analysis.sharding.explain import sharded_rules
from optforge.compiler.load import program_for, snapshot_for
from optforge.runtime import communication, explain_schedule, iterate_in
from optforge.runtime.batching.buckets import Bucket
from optforge.runtime.exchange.communication import Communication
from optforge.runtime.placement import slots
from tests.runtime.exchange.optimizers import Case, Twins, shipped, step_twins, worst
from tests.runtime.exchange.rules import RULES
from tests.support.ranks import Pool

PLACES = [(0, 3, ()), (1, 2, ()), (0, 4, (2, 2))]  # dimension, world and mesh
OWNED = ["SOAP", "Shampoo", "Conda", "Mousse", "PRISM"]  # which have states that live with the owners of matrices
NAMES = ["Adafactor", "LAMB", "MuonH", "NAMO", "NorMuon", "Prodigy", *OWNED]


def require_agreement(ranks: Pool, world: int, case: Case, limit: float = 1e-9) -> None:
    error, where = worst(ranks.run(world, step_twins, case))
    assert error <= limit, where


@pytest.mark.parametrize(("dim", "world", "mesh"), PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_dtensors_step_as_whole_tensors(ranks: Pool, name: str, dim: int, world: int, mesh: tuple[int, ...]) -> None:
    require_agreement(ranks, world, Case(name, dim, mesh))


@pytest.mark.parametrize(("dim", "world", "mesh"), PLACES)
@pytest.mark.parametrize("with_shards", [True, False])
@pytest.mark.parametrize("name", ["lamb", "namo", "normuon", "reductions"])
def test_functions_for_shards_are_used_where_there_are_some(
    ranks: Pool, name: str, dim: int, world: int, mesh: tuple[int, ...], with_shards: bool
) -> None:
    require_agreement(ranks, world, Case(name, dim, mesh, with_shards=with_shards))


EVENTS = [
    ("SAM", ("ascend", "eval", "train", "step")),
    ("ScheduleFreeAdamW", ("step", "eval", "train")),
    ("SophiaH", ("curvature", "step")),
]


@pytest.mark.parametrize(("name", "calls"), EVENTS)
def test_events_of_dtensors(ranks: Pool, name: str, calls: tuple[str, ...]) -> None:
    require_agreement(ranks, 3, Case(name, calls=calls, without=()))


WRAPPED = [
    ("AdamW |> Grokfast |> ScheduleFree", ("step", "eval", "train")),
    ("Muon |> Averaged", ("step", "eval", "train")),
    ("Muon |> Hyperball |> Lookahead(every=2)", ("step",)),
    ("NorMuon |> AGC |> Cautious", ("step",)),
]


@pytest.mark.parametrize(("name", "calls"), WRAPPED)
def test_wrapped_optimizers_of_dtensors(ranks: Pool, name: str, calls: tuple[str, ...]) -> None:
    require_agreement(ranks, 2, Case(name, calls=calls))


@pytest.mark.parametrize(("dim", "world", "mesh"), PLACES)
def test_random_streams_are_those_of_whole_tensors(ranks: Pool, dim: int, world: int, mesh: tuple[int, ...]) -> None:
    require_agreement(ranks, world, Case("everywhere", dim, mesh, calls=("shake", "step")), limit=0)


@pytest.mark.parametrize("dim", [0, 1])
def test_random_streams_of_parts(ranks: Pool, dim: int) -> None:
    for group in ({"split": 3}, {"transposed": True})[dim:]:  # no rule is run on parts that are cut by columns
        shapes = {"a": (12, 6), "b": (9, 4)} if dim == 0 else {"a": (12, 6), "b": (3, 4)}
        require_agreement(ranks, 2, Case("everywhere", dim, group=group, shapes=shapes, plain=()), limit=0)


def test_sums_over_parameters_of_several_groups_of_ranks(ranks: Pool) -> None:
    """Parts of one shape that other ranks have the rest of, and parameters that all ranks have."""
    shapes = {"a": (6, 4), "b": (6, 4), "c": (6, 4), "bias": (9,)}
    case = Case("normalized", mesh=(2, 2), shapes=shapes, plain=("c", "bias"), across=("b",), without=())
    require_agreement(ranks, 4, case)


@pytest.mark.wide
@pytest.mark.parametrize(("dim", "world", "mesh"), PLACES)
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_class(ranks: Pool, name: str, dim: int, world: int, mesh: tuple[int, ...]) -> None:
    require_agreement(ranks, world, Case(name, dim, mesh))


VIEWS: list[tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]], int]] = [
    ({"transposed": True}, {"a": (10, 6), "b": (3, 8)}, 0),
    ({"transposed": True}, {"a": (10, 6), "b": (3, 8)}, 1),
    ({"split": 3}, {"a": (12, 6), "b": (9, 4)}, 0),
    ({"batch": 1}, {"a": (4, 10, 6), "b": (2, 3, 8)}, 0),
    ({"batch": 1}, {"a": (3, 10, 6), "b": (2, 3, 8)}, 1),
]


@pytest.mark.parametrize(("group", "shapes", "dim"), VIEWS)
def test_views(ranks: Pool, group: dict[str, Any], shapes: dict[str, tuple[int, ...]], dim: int) -> None:
    """Rows and columns, parts and experts, which may lie on several ranks or be cut themselves."""
    names = ("Muon", "NorMuon") if "split" in group else ("Muon", "NorMuon", "ASGO")  # which sees them as wide
    for name in names:
        require_agreement(ranks, 2, Case(name, dim, group=group, shapes=shapes, plain=(), without=()))


@pytest.mark.parametrize("precision", ["plain", "kahan", "master", "stochastic"])
def test_precisions(ranks: Pool, precision: str) -> None:
    case = Case("Muon", options={"precision": precision}, dtype=torch.bfloat16)
    require_agreement(ranks, 3, case, limit=1e-30)


def stepped_by(group: dist.ProcessGroup, case: Case) -> Communication:
    twins = Twins(group, case)
    twins.step(2)
    return communication(twins.other)


@pytest.mark.parametrize("world", [2, 4])
def test_an_optimizer_sends_shards_to_owners_and_back(ranks: Pool, world: int) -> None:
    case = Case("muon", shapes=dict.fromkeys("abcdefgh", (8, 16)), plain=(), dtype=torch.float32)
    for sent in ranks.run(world, stepped_by, case):
        asked = 2 * (world - 1) * 2 * 4 * 8 // world  # whether all agree: four words and their opposites
        assert sent.bytes == {"all_to_all": 2 * 8 * (8 * 16) * 4 * (world - 1) // world**2, "all_reduce": asked}
        assert (sent.rounds, sent.calls) == (3, {"all_to_all": 2, "all_reduce": 1})


def test_sums_over_ranks_count_as_sent(ranks: Pool) -> None:
    case = Case("normalized", shapes={"a": (6, 4), "bias": (9,)}, dtype=torch.float64, without=())
    for sent in ranks.run(2, stepped_by, case):
        assert (sent.rounds, sent.calls) == (2, {"all_reduce": 2})
        assert sent.bytes == {"all_reduce": 64 + 8}


def test_nothing_is_sent_where_nothing_crosses(ranks: Pool) -> None:
    for sent in ranks.run(2, stepped_by, Case("AdamW")):
        assert sent == Communication()


CLAIMED = {  # numbers of a matrix of 8×16 that go to its owner and back as shards, that all ranks get, and of sums
    "Muon": (256, 0, 0),
    "NorMuon": (256, 0, 1),
    "NAMO": (256, 1, 1),
    "NAMOD": (256, 16, 16),
    "SOAP": (256, 0, 0),
    "Nora": (0, 0, 0),
}


def second_step_by(group: dist.ProcessGroup, case: Case) -> Communication:
    """Of a step before which ranks do not ask each other who has which states."""
    twins = Twins(group, case)
    twins.step(1)
    twins.step(2)
    return communication(twins.other)


@pytest.mark.parametrize("name", CLAIMED)
def test_what_specs_claim_is_what_ranks_send(ranks: Pool, name: str) -> None:
    (claimed,) = (each for each in getattr(generated, name).__doc__.split("\n") if "communicates(" in each)
    shards, copies, sums = CLAIMED[name]
    assert eval(claimed.strip().removeprefix("communicates"), {"rows": 8, "cols": 16}) == shards + copies + sums
    records = ranks.run(4, second_step_by, Case(name, shapes=dict.fromkeys("abcdefgh", (8, 16)), plain=(), without=()))
    sent = sum(record.bytes.get("all_to_all", 0) for record in records)
    assert sent == 8 * (shards * 3 // 4 + copies * 3) * 8
    added = sum(record.bytes.get("all_reduce", 0) for record in records)
    asked = 4 * 2 * 3 * 2 * 4 * 8 // 4 if shards else 0  # whether all agree
    assert added == 8 * sums * 2 * 3 * 8 + asked


# Rules with a dimension of their own, whose states of that size lie on ranks as the sides of matrices do.
RANKED = {"Dion": "q", "GaLore": "p", "APOLLO": "p"}


@pytest.mark.parametrize(("name", "place"), zip(RANKED, PLACES, strict=True))
def test_rules_with_a_dimension_of_their_own_step_as_one_process(ranks: Pool, name: str, place: Any) -> None:
    dim, world, mesh = place
    shapes = {"a": (10, 6), "b": (3, 8), "d": (10, 6), "bias": (9,)}
    require_agreement(ranks, world, Case(name, dim, mesh, shapes=shapes))


@pytest.mark.parametrize("name", RANKED)
def test_what_is_explained_of_them_is_what_ranks_send(ranks: Pool, name: str) -> None:
    """Of eight matrices on four ranks, each of which owns two."""
    explained = {
        each.cut: each.report for each in sharded_rules(program_for(snapshot_for(name))) if each.rule == "matrix"
    }
    p = torch.ones(8, 16)
    optimizer = getattr(generated, name)([{"params": [("p", p.requires_grad_())], "rule": "matrix"}])
    sizes = {"rows": 8, "cols": 16, "rank": optimizer.state_dict()["state"][0][RANKED[name]].shape[-1], "e": 8, "W": 4}
    case = Case(name, shapes=dict.fromkeys("abcdefgh", (8, 16)), plain=(), without=())
    for sent in ranks.run(4, second_step_by, case):
        assert sent.bytes["all_to_all"] == 8 * eval(explained["between rows"].bytes.replace("^", "**"), sizes)
        assert sent.rounds == 1 + explained["between rows"].rounds  # the first asks whether all agree


def test_owners_stay_when_gradients_come_and_go(ranks: Pool) -> None:
    case = Case("Muon", shapes=dict.fromkeys("abcdef", (10, 6)), plain=())
    for first, second in ranks.run(3, owners_before_and_after, case):
        assert first == {name: second[name] for name in first} and len(second) == len(first) + 1
        assert set(second.values()) == {0, 1, 2}


def owners_before_and_after(group: dist.ProcessGroup, case: Case) -> list[dict[str, int]]:
    """Which rank has the whole matrix of each parameter, by the buckets of a step."""
    twins, found = Twins(group, case), []
    for t in (1, 2):
        twins.other._arrangement._buckets.clear()
        twins.step(t)
        buckets = [bucket for each in twins.other._arrangement._buckets.values() for bucket in each]
        names = {p: name for name, p in twins.sharded.items()}
        found.append({names[p]: rank for bucket in buckets for p, rank in owners_in(bucket)})
    return found


def owners_in(bucket: Bucket) -> Sequence[tuple[Tensor, int]]:
    owned = bucket.sharding.owned if bucket.sharding else ()
    return [*zip(bucket.params, [rank for rank, count in enumerate(owned) for _ in range(count)], strict=False)]


def disagreeing(group: dist.ProcessGroup, what: str, rank: int, name: str = "NAMO") -> tuple[str, bool]:
    """What an optimizer says when one rank is about to do something else, and whether it has left everything."""
    twins = Twins(group, Case(name))
    twins.step(2)
    twins.grads(3)
    is_other = dist.get_rank(group) == rank
    if what == "gradient" and is_other:
        twins.sharded["b"].grad = None
    if what == "hyper" and is_other:
        twins.other.param_groups[0]["lr"] = 0.5
    if what == "nonfinite" and is_other:
        grad = twins.sharded["a"].grad
        assert isinstance(grad, DTensor)
        grad.to_local()[0, 0] = math.nan
    if what == "placements" and is_other:
        twins.sharded["a"].grad = DTensor.from_local(torch.ones(10, 6).double(), twins.mesh, [Replicate()])
    if what == "state" and is_other:
        twins.other.state[twins.sharded["a"]]["m"] = torch.ones(3)
    if what == "whole state" and is_other:
        twins.other.state[twins.sharded["a"]]["m"] = torch.ones(10, 6).double()
    if what == "range" and is_other:
        twins.other.param_groups[0]["lr"] = -1.0
    if what == "shape" and is_other:
        twins.other.param_groups[0]["split"] = 2
    if what == "plain" and is_other:
        twins.sharded["bias"].grad = None
    twins.other.skip_nonfinite = what == "nonfinite"
    before = [p.detach().clone() for p in twins.sharded.values()]
    said = ""
    try:
        twins.other.step()
    except (RuntimeError, ValueError, NotImplementedError) as problem:
        said = f"{type(problem).__name__}: {problem}"
    pairs = zip(before, twins.sharded.values(), strict=True)
    local = [(x.to_local(), p.to_local()) if isinstance(x, DTensor) else (x, p) for x, p in pairs]
    return said, all(torch.equal(x, y) for x, y in local)


SAID = [
    ("gradient", "some ranks have a gradient and others have none: b of shape (3, 8)"),
    ("hyper", "ranks have different hypers: a of shape (10, 6), b of shape (3, 8)"),
]


@pytest.mark.parametrize(("what", "message"), SAID)
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_disagree_raise_together(ranks: Pool, what: str, message: str, rank: int) -> None:
    for said, is_left in ranks.run(2, disagreeing, what, rank):
        assert message in said and is_left


PROBLEMS = [
    ("NAMO", "placements", "RuntimeError", "a of shape (10, 6) is a DTensor with the placements"),
    ("NAMO", "state", "ValueError", "state 'm' of a matrix parameter"),
    (
        "NAMO",
        "whole state",
        "ValueError",
        "state 'm' of a matrix parameter of shape (10, 6) has shape (10, 6), where (5, 6) is expected, the part that "
        "this rank has: load_state_dict() cuts whole states",
    ),
    ("NAMO", "range", "ValueError", "invalid lr=-1.0"),
    ("NAMO", "shape", "RuntimeError", "a of shape (10, 6) does not fit its state"),
    ("Prodigy", "range", "ValueError", "invalid lr=-1.0"),
]


@pytest.mark.parametrize(("name", "what", "kind", "message"), PROBLEMS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_problem_of_one_rank_is_raised_on_all(
    ranks: Pool, name: str, what: str, kind: str, message: str, rank: int
) -> None:
    """Before anything has moved: that rank raises it, and the others are told."""
    for each, (said, is_left) in enumerate(ranks.run(2, disagreeing, what, rank, name)):
        assert is_left
        start = f"{kind}: " if each == rank else f"RuntimeError: rank {rank} cannot take part, and nothing has been "
        assert said.startswith(start) and message in said, said


def given(group: dist.ProcessGroup, sizes: Sequence[Any]) -> tuple[str, bool, Communication]:
    """What an event of which nothing else is sent says to the number of each rank, and whether states are as before."""
    twins = Twins(group, Case("SophiaG", shapes={"a": (10, 6), "bias": (9,)}, without=()))
    twins.step(1)
    before, said = twins.other.state[twins.sharded["a"]]["h"].to_local().clone(), ""
    try:
        twins.other.fire("curvature", batch_size=sizes[dist.get_rank(group)])
    except (RuntimeError, ValueError) as problem:
        said = f"{type(problem).__name__}: {problem}"
    return said, before.equal(twins.other.state[twins.sharded["a"]]["h"].to_local()), communication(twins.other)


def test_numbers_of_events_are_the_same_on_all_ranks(ranks: Pool) -> None:
    for said, is_left, sent in ranks.run(2, given, (4, torch.tensor(4.0))):
        assert (said, is_left, sent.calls) == ("", False, {"all_reduce": 1})
    for rank, (said, is_left, _) in enumerate(ranks.run(2, given, (4, 6))):
        assert (
            f"ranks give curvature() different numbers, and nothing has changed; this one batch_size={4 + 2 * rank}.0"
            in said
        )
        assert is_left
    for wrong, message in (
        ("six", "ValueError: invalid batch_size='six'"),
        (torch.ones(2), "ValueError: invalid batch_size"),
    ):
        (told, *_), (said, *_) = found = ranks.run(2, given, (4, wrong))
        assert f"rank 1 cannot take part, and nothing has been stepped on any: {message}" in told
        assert said.startswith(message) and all(is_left for _, is_left, _ in found)


@pytest.mark.parametrize("rank", [0, 1])
def test_parameters_that_nothing_is_sent_for_need_not_be_the_same(ranks: Pool, rank: int) -> None:
    """A plain parameter without a gradient on one rank, which leaves the order of what is sent as it is."""
    assert ranks.run(2, disagreeing, "plain", rank, "NAMO") == [("", False)] * 2
    for said, is_left in ranks.run(2, disagreeing, "plain", rank, "Prodigy"):  # whose sums are over all parameters
        assert "some ranks have a gradient and others have none: bias of shape (9,)" in said and is_left


def behind(group: dist.ProcessGroup, case: Case) -> dict[str, float]:
    """Rank 1 has other counts of a plain matrix, whose rule is that of the sharded ones, than rank 0."""
    twins = Twins(group, case)
    for t in range(1, 4):
        twins.grads(t)
        if t == 2 and dist.get_rank(group) == 1:
            twins.whole["first"].grad = twins.sharded["first"].grad = None
        twins.one.step()
        twins.other.step()
    return twins.errors()


def test_works_of_plain_parameters_leave_the_order_of_what_is_sent_as_it_is(ranks: Pool) -> None:
    """With the same count, and so in one work, as those without a gradient before, or as those with one."""
    shapes = {"first": (6, 4), "a": (10, 6), "b": (3, 8), "d": (10, 6)}
    case = Case("NAMO", shapes=shapes, plain=("first",), without=("a",))
    error, where = worst(ranks.run(2, behind, case))
    assert error < 1e-9, where


@pytest.mark.parametrize("rank", [0, 1])
def test_a_nan_on_one_rank_skips_the_step_of_all(ranks: Pool, rank: int) -> None:
    assert ranks.run(2, disagreeing, "nonfinite", rank) == [("", True)] * 2
    assert [is_left for _, is_left in ranks.run(2, disagreeing, "nothing", rank)] == [False] * 2


def schedule(group: dist.ProcessGroup, case: Case) -> Sequence[str]:
    twins = Twins(group, case)
    twins.step(2)
    return explain_schedule(twins.other).splitlines()


def test_the_schedule_says_what_crosses_and_what_was_sent(ranks: Pool) -> None:
    shapes = {"a": (8, 16), "b": (8, 16), "c": (4, 4), "bias": (9,)}
    for lines in ranks.run(2, schedule, Case("normuon", shapes=shapes, without=(), dtype=torch.float32)):
        table = [line.split("  ") for line in lines]
        assert [row[-1].strip() for row in table[1:3]] == [
            # Shards of two matrices go to their owners and back; a norm has 8 bytes a matrix.
            f"rows lie on 2 ranks, by normuon_shards; last step: 3 rounds, {2 * 64 * 4 + 2 * 8:,} bytes sent",
            "rows lie on 2 ranks, by normuon_shards; last step: 3 rounds, 40 bytes sent",
        ]
        assert [line.split()[:4] for line in lines[1:4]] == [
            ["matrix", "1", "8×16", "2"],
            ["matrix", "1", "4×4", "1"],
            ["rest", "1", "flat", "1"],
        ]


def words_about_zeros(group: dist.ProcessGroup, zeros: Mapping[str, Sequence[int]], split: int, dim: int) -> list[str]:
    """What is said at the first and second step of parameters of which some rows, or all, are zeros."""
    shapes = {"a": (10, 6), "b": (10, 6), "few": (2, 4)}
    case = Case(
        "MuonH", dim, shapes=shapes, plain=("b",), without=("few",), group={"split": split} if split > 1 else {}
    )
    twins = Twins(group, case)
    for name, rows in zeros.items():
        x = dict(twins.data(0))[name]
        x[[*rows]] = 0
        with torch.no_grad():
            twins.sharded[name].copy_(twins.placed(name, x))
    said = []
    for t in (1, 2, 3):
        twins.grads(t)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            twins.other.step()
        said += [f"{t}: {each.message}".partition(" is all zeros")[0] for each in caught]
    return said


def test_a_weight_of_zeros_that_stays_so_is_named_on_all_ranks(ranks: Pool) -> None:
    """Where some ranks have zeros alone, or no row, nothing is said of what is more than zeros elsewhere."""
    everything = range(10)
    for dim in (0, 1):
        found = ranks.run(3, words_about_zeros, {"a": everything, "b": everything, "few": range(2)}, 1, dim)
        expected = [f"MuonH: {name} of shape {shape}" for name, shape in (("b", (10, 6)), ("a", (10, 6)))]
        for said in found:
            assert sorted(said) == sorted([*(f"1: {each}" for each in expected), "2: MuonH: few of shape (2, 4)"])
        assert ranks.run(3, words_about_zeros, {"a": everything[1:], "b": everything[:9]}, 1, dim) == [[]] * 3
    half = {"a": everything[:5]}
    assert ranks.run(3, words_about_zeros, half, 2, 0) == [["1: MuonH: one of the matrices in a of shape (10, 6)"]] * 3
    assert ranks.run(3, words_about_zeros, {"a": everything[1:6]}, 2, 0) == [[]] * 3


def left_alone(group: dist.ProcessGroup) -> tuple[str, list[bool], bool]:
    """What a step raises in which one rank has no memory left after the first round, and whose weights are finite."""
    shards = RULES["normuon"].shards

    def failing(*given: Any, over: Any, **scalars: Any) -> Any:
        step = shards(*given, over=over, **scalars)
        answer = yield next(step)
        if dist.get_rank(group) == 1 and not isinstance(given[0], FakeTensor):
            raise MemoryError("no memory left")
        try:
            while True:
                answer = yield step.send(answer)
        except StopIteration as ended:
            return ended.value

    twins = Twins(group, Case("normuon", shapes={"a": (8, 6), "b": (6, 6), "c": (4, 6)}, plain=(), without=()))
    (matrix, rest) = twins.other.RULES
    type(twins.other).RULES = (replace(matrix, step=replace(matrix.step, shards=failing)), rest)
    twins.other = type(twins.other)(twins.groups(twins.sharded))
    twins.grads(1)
    said = ""
    try:
        twins.other.step()
    except MemoryError as problem:
        said = str(problem)
    dist.barrier(group)
    parts = [
        (twins.sharded[name].detach().to_local(), twins.placed(name, twins.start[name]).to_local()) for name in "abc"
    ]
    return said, [bool(x.isfinite().all()) for x, _ in parts], all(x.equal(start) for x, start in parts)


def test_a_failure_of_one_rank_within_a_step_leaves_none_waiting(ranks: Pool) -> None:
    (none, finite, moved), (said, own, same) = ranks.run(2, left_alone)
    assert (none, said) == ("", "no memory left")
    assert not all(finite) and not moved  # the other has gone on without what it could not get
    assert all(own) and same


def offloaded(group: dist.ProcessGroup, name: str) -> str:
    """What is said of parameters that lie where their processes have no collectives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_has_collectives", lambda group, device: False)
        try:
            Twins(group, Case(name, shapes={"a": (8, 6)}, plain=(), without=()))
        except NotImplementedError as problem:
            return str(problem)
    return ""


def test_rules_that_ask_others_need_collectives_where_parameters_lie(ranks: Pool) -> None:
    for name, expected in {"Muon": "matrix", "AdamW": ""}.items():
        for said in ranks.run(2, offloaded, name):
            assert bool(said) == bool(expected)
            assert not said or f"is a DTensor that is kept on cpu, and the rule {expected!r} needs" in said


def narrow_steps(group: dist.ProcessGroup, case: Case) -> tuple[dict[str, float], dict[str, int]]:
    """The errors of steps that iterate in bfloat16, and what this rank sends in the last one."""
    with iterate_in(torch.bfloat16):
        twins = Twins(group, case)
        for t in (1, 2, 3):
            twins.step(t)
    return twins.errors(), communication(twins.other).bytes


def test_matrices_travel_in_the_dtype_of_the_iteration(ranks: Pool) -> None:
    """Each of two ranks owns one matrix, and sends half of another down and half of its own up."""
    shapes = {"a": (8, 16), "b": (8, 16)}
    for name in ("Muon", "NorMuon"):
        for errors, sent in ranks.run(
            2, narrow_steps, Case(name, shapes=shapes, plain=(), without=(), dtype=torch.float32)
        ):
            assert sent["all_to_all"] == 2 * 64 * 2
            assert max(errors.values()) < (1e-5 if name == "NorMuon" else 1e-300)
