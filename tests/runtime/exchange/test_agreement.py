"""What ranks find out together before a step: whether they agree, whether all is finite, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from optforge.runtime.exchange.agreement import (
    Asked,
    Known,
    Reach,
    _is_so_everywhere,
    _require_same,
    _sum_over_ranks,
)
from optforge.runtime.exchange.communication import Communication
from optforge.runtime.exchange.sharding import Ranks
from tests.support.ranks import Pool, mesh_of

CPU = torch.device("cpu")
KNOWN = [Known(name, True, 3, (0.1, "plain")) for name in ("a", "b", "c")]


def reach_of(group: dist.ProcessGroup, mesh: Sequence[int] = ()) -> Reach:
    groups = [Ranks.of(each) for each in mesh_of(tuple(mesh)).get_all_groups()] if mesh else []
    return Reach(tuple(groups or [Ranks.of(group)]), CPU)


STEP = Asked("step")


def complaint(
    group: dist.ProcessGroup,
    known: Sequence[Sequence[Known]],
    specs: Sequence[str],
    mesh: Sequence[int],
    asked: Sequence[Asked] = (STEP,) * 4,
) -> str:
    """What a rank says to this, over the group or over all dimensions of a mesh."""
    rank = dist.get_rank(group)
    reach = reach_of(group, mesh)
    try:
        _require_same(known[rank], specs[rank], asked[rank], reach, Communication())
    except RuntimeError as problem:
        return str(problem)
    return ""


DIFFERENT = [
    (replace(KNOWN[1], has_gradient=False), "some ranks have a gradient and others have none: b"),
    (replace(KNOWN[1], count=4), "ranks have counted different numbers of steps: b"),
    (replace(KNOWN[1], hypers=(0.2, "plain")), "ranks have different hypers: b"),
    (replace(KNOWN[1], name="d"), "they are called otherwise on some ranks: "),
]


@pytest.mark.parametrize(("other", "expected"), DIFFERENT)
@pytest.mark.parametrize("mesh", [(), (2, 2)])
@pytest.mark.parametrize("rank", [0, 3])
def test_every_rank_hears_what_differs(
    ranks: Pool, other: Known, expected: str, mesh: tuple[int, ...], rank: int
) -> None:
    known = [KNOWN] * 4
    known[rank] = [KNOWN[0], other, KNOWN[2]]
    complaints = ranks.run(4, complaint, known, [""] * 4, mesh)
    assert all(expected in each for each in complaints)
    assert len(complaints[0].splitlines()) == 2


def test_agreement_is_silent(ranks: Pool) -> None:
    assert ranks.run(3, complaint, [KNOWN] * 3, ["x"] * 3, ()) == [""] * 3


def test_other_specs_and_numbers_of_parameters(ranks: Pool) -> None:
    assert all("different specs" in each for each in ranks.run(2, complaint, [KNOWN] * 2, ["x", "y"], ()))
    assert all("numbers of parameters" in x for x in ranks.run(2, complaint, [KNOWN, KNOWN[:2]], ["x", "x"], ()))


def test_methods_and_the_numbers_that_they_are_given(ranks: Pool) -> None:
    """Even if no parameter is sent for; a rank says what it has been given itself."""
    here = [Asked("observe", {"loss": 0.5, "size": size}) for size in (4.0, torch.tensor(6.0))]
    for known in (KNOWN, []):
        assert ranks.run(2, complaint, [known] * 2, [""] * 2, (), here[:1] * 2) == [""] * 2
        for rank, said in enumerate(ranks.run(2, complaint, [known] * 2, [""] * 2, (), here)):
            assert (
                f"ranks give observe() different numbers, and nothing has changed; this one size={4 + 2 * rank}.0"
                in said
            )
            assert "loss" not in said
        for rank, said in enumerate(ranks.run(2, complaint, [known] * 2, [""] * 2, (), [STEP, here[0]])):
            assert f"this one calls {('step', 'observe')[rank]}()" in said


def failing(group: dist.ProcessGroup, who: Sequence[int], mesh: Sequence[int], is_flag: bool) -> str:
    """What a rank hears of those that have a problem."""
    rank = dist.get_rank(group)
    problem = ValueError(f"trouble of {rank}, with ümläuts, {'x' * 2000}") if rank in who else None
    reach, sent = reach_of(group, mesh), Communication()
    try:
        if is_flag:
            _is_so_everywhere(True, reach, sent, problem)
        else:
            _require_same(KNOWN, "x", STEP, reach, sent, problem)
    except (RuntimeError, ValueError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return ""


@pytest.mark.parametrize("is_flag", [False, True])
@pytest.mark.parametrize("mesh", [(), (2, 2)])
@pytest.mark.parametrize("who", [(0,), (3,), (1, 2)])
def test_a_problem_of_some_ranks_is_raised_on_all(
    ranks: Pool, who: Sequence[int], mesh: Sequence[int], is_flag: bool
) -> None:
    """By those that have one, each its own; others are told that of the last of these, as much as fits."""
    for rank, said in enumerate(ranks.run(4, failing, who, mesh, is_flag)):
        if rank in who:
            assert said.startswith(f"ValueError: trouble of {rank}, with ümläuts") and said.endswith("x" * 2000)
        else:
            assert said.startswith(
                f"RuntimeError: rank {who[-1]} cannot take part, and nothing has been stepped on any"
            )
            assert f": ValueError: trouble of {who[-1]}, with ümläuts, xx" in said and len(said) < 1100


def so_everywhere(group: dist.ProcessGroup, so: Sequence[bool]) -> bool:
    return _is_so_everywhere(so[dist.get_rank(group)], reach_of(group), Communication())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_rank_decides_against_all(ranks: Pool, rank: int) -> None:
    assert ranks.run(3, so_everywhere, [True] * 3) == [True] * 3
    assert ranks.run(3, so_everywhere, [each != rank for each in range(3)]) == [False] * 3


def total(group: dist.ProcessGroup) -> list[float]:
    """Of two sums what is on all ranks, and what lies on this one."""
    own = torch.tensor([10.0, 100.0], dtype=torch.float64) * (1 + dist.get_rank(group))
    return _sum_over_ranks(
        {Ranks(): torch.tensor([1.0, 2.0], dtype=torch.float64), Ranks.of(group): own}, Communication()
    ).tolist()


def test_what_every_rank_has_counts_once(ranks: Pool) -> None:
    assert ranks.run(3, total) == [[61.0, 602.0]] * 3
