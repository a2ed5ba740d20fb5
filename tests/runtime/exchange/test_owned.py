"""States that owners have: whole on one rank, of no rows on the others, and as any other state in checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from optforge.compiler.load import compile_source
from optforge.runtime import communication, explain_schedule
from tests.runtime.exchange.optimizers import Case, Twins, full, worst
from tests.runtime.test_sharded import Counted
from tests.support.ranks import Pool

SHAPES = {"a": (10, 6), "b": (3, 8), "c": (10, 6), "conv": (6, 4, 3, 3), "d": (10, 6)}
OWNED = {"SOAP": "l r q_l q_r m v", "Shampoo": "l r p_l p_r", "Conda": "m v", "Mousse": "l r p q m", "PRISM": "m"}


def case_of(name: str, **others: Any) -> Case:
    return Case(name, **{"shapes": dict(SHAPES), "plain": (), **others})


def locations(group: dist.ProcessGroup, name: str) -> dict[str, bool]:
    """Which states are on this rank after two steps: all of each, or nothing; `state_dict` shows them sharded."""
    twins = Twins(group, case_of(name))
    for t in (1, 2):
        twins.step(t)
    found = {}
    shown = twins.other.state_dict()["state"]
    for i, (parameter, p, q) in enumerate(zip(SHAPES, twins.whole.values(), twins.sharded.values(), strict=True)):
        for key in OWNED[name].split():
            x, part, expected = twins.other.state[q][key], shown[i][key], twins.one.state[p][key]
            assert isinstance(part, DTensor) and part.placements == (Shard(0),) and not isinstance(x, DTensor)
            assert x.shape in (expected.shape, (0, *expected.shape[1:])) and x.untyped_storage().nbytes() == x.nbytes
            assert torch.equal(full(part)[: len(x)], x)
            found[f"{parameter}.{key}"] = bool(len(x))
    return found


@pytest.mark.parametrize("name", OWNED)
def test_each_state_is_on_one_rank(ranks: Pool, name: str) -> None:
    answers = ranks.run(3, locations, name)
    assert all(sum(found) == 1 for found in zip(*(answer.values() for answer in answers), strict=True))
    assert all(any(answer.values()) for answer in answers)


def calls_of_a_step(group: dist.ProcessGroup, name: str, split: int) -> tuple[list[str], int, str]:
    """The collectives of a step that is not the first, what this rank has sent in it, and what is said of it."""
    shapes, keys = dict.fromkeys("abcdefgh", (8, 16)), {"split": split} if split > 1 else {}
    twins = Twins(group, case_of(name, shapes=shapes, without=(), dtype=torch.float32, group=keys))
    twins.step(1)
    twins.grads(2)
    with Counted() as counted:
        twins.other.step()
    sent = communication(twins.other)
    assert sent.calls == {"all_reduce": 1, "all_to_all": 2} and sent.rounds == 3
    return counted.calls, sent.bytes["all_to_all"], explain_schedule(twins.other).splitlines()[1]


@pytest.mark.parametrize(
    ("name", "split", "numbers"), [*((name, 1, 0) for name in OWNED), ("NAMO", 2, 1), ("SOAP", 2, 0)]
)
def test_gradients_go_down_and_updates_up_and_nothing_else(ranks: Pool, name: str, split: int, numbers: int) -> None:
    """Beside whether ranks agree; `numbers` come up as one for each row of a matrix that is split."""
    for world in (2, 4):
        for calls, sent, line in ranks.run(world, calls_of_a_step, name, split):
            assert [call.split(".")[1] for call in calls] == ["allreduce_", "alltoall_base_", "alltoall_base_"]
            assert sent == (2 * 8 * 16 + numbers * 8) * 8 * 4 * (world - 1) // world**2
            assert f"by matrix_{'split_' if name == 'NAMO' else ''}shards" in line  # SOAP's serve both


# -- what happens to an optimizer between steps ------------------------------------------------------------------------


def copied(twins: Twins) -> None:
    twins.one, twins.other, twins.whole, twins.sharded = copy.deepcopy(
        (twins.one, twins.other, twins.whole, twins.sharded)
    )


def pickled(twins: Twins) -> None:
    """As a program that ends and goes on with the same number of ranks; meshes are made anew."""
    kept = {id(q): q for q in twins.sharded.values()}

    class Pickler(pickle.Pickler):
        def persistent_id(self, x: Any) -> Any:
            return id(x) if id(x) in kept else None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, key: Any) -> Any:
            return kept[key]

    file = io.BytesIO()
    Pickler(file).dump(twins.other)
    file.seek(0)
    twins.other = Unpickler(file).load()


def cleared(twins: Twins) -> None:
    for optimizer in (twins.one, twins.other):
        optimizer.state.clear()


def cleared_in_part(twins: Twins) -> None:
    del twins.one.state[twins.whole["c"]]
    del twins.other.state[twins.sharded["c"]]


def replaced(twins: Twins) -> None:
    """By whole tensors that all ranks have, of which the owner keeps its own."""
    for p, q in zip(twins.whole.values(), twins.sharded.values(), strict=True):
        twins.one.state[p]["v"] = twins.one.state[p]["v"] + 1
        twins.other.state[q]["v"] = twins.one.state[p]["v"].clone()


def loaded(twins: Twins) -> None:
    saved = twins.other.state_dict()
    twins.other.state.clear()
    twins.other.load_state_dict(saved)


def loaded_whole(twins: Twins) -> None:
    """What one process has, without communication."""
    saved = twins.one.state_dict()
    with Counted() as counted:
        twins.other.load_state_dict(saved)
    assert counted.calls == []


def appended(twins: Twins) -> None:
    """Parameters that cost more than all before, so that others own those; one goes."""
    added = {"large": (24, 20), "e": (10, 6), "f": (24, 20)}
    for index, (name, shape) in enumerate(added.items()):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        twins.whole[name], twins.sharded[name] = nn.Parameter(x), nn.Parameter(twins.placed(name, x))
        twins.start[name] = x.clone()
        pairs = [(twins.one, twins.whole[name]), (twins.other, twins.sharded[name])]
        for optimizer, p in pairs:
            if name == "large":
                optimizer.add_param_group({"params": [(name, p)], "rule": "matrix", **twins.case.group})
            else:
                optimizer.param_groups[0]["params"].insert(0, p)
                optimizer.param_groups[0]["param_names"].insert(0, name)
    assert isinstance(twins.case.shapes, dict)
    twins.case.shapes.update(added)


CHANGES: list[Callable[[Twins], None]] = [
    copied, pickled, cleared, cleared_in_part, replaced, loaded, loaded_whole, appended,
]  # fmt: skip


def changed(group: dist.ProcessGroup, name: str, change: int, split: int) -> tuple[dict[str, float], bool]:
    """The errors of steps before and after the change, and whether the first state is on another rank then."""
    case = case_of(name, without=("c",))
    if split > 1:
        shapes = {"a": (12, 6), "b": (6, 8), "c": (12, 6), "d": (12, 6), "e": (18, 9)}
        case = case_of(name, shapes=shapes, without=("c",), group={"split": split})
    twins = Twins(group, case)
    for t in (1, 2):
        twins.step(t)
    before = len(twins.other.state[twins.sharded["a"]]["m"])
    CHANGES[change](twins)
    for t in (1, 3):  # in the first of them one has no gradient
        twins.step(t)
    return twins.errors(), before != len(twins.other.state[twins.sharded["a"]]["m"])


@pytest.mark.parametrize("change", range(len(CHANGES)), ids=[each.__name__ for each in CHANGES])
@pytest.mark.parametrize(("name", "split"), [("SOAP", 1), ("NAMO", 2)])
def test_steps_go_on_as_those_of_one_process(ranks: Pool, name: str, split: int, change: int) -> None:
    answers = ranks.run(3, changed, name, change, split)
    error, where = worst([errors for errors, _ in answers])
    assert error < 1e-9, where
    if CHANGES[change] is appended:
        assert any(has_moved for _, has_moved in answers), "the owner is the same, and nothing has been tried"


# -- checkpoints of older specs ----------------------------------------------------------------------------------------

# Owners have all of `l` and `m`, which are `gram` and `u` then; each rank has its part of the others.
OLDER = """
optimizer Whitened:
    hyper lr = 0.01 where lr >= 0
    for matrix:
        l = prev(l) + grad @ grad'
        m = 0.5 * prev(m) + grad
        s = ema(grad, 0.9)
        weight <- weight - lr * (inverse_root(l, 4, 1e-4) @ m + s)
"""
NEWER = """
optimizer Whitened:
    hyper lr = 0.01 where lr >= 0
    for matrix:
        gram = prev(gram) + 2 * grad @ grad'
        u    = 0.5 * prev(u) + 3 * grad
        s    = ema(grad, 0.9)
        n    = ema(grad, 0.9)
        weight <- weight - lr * (inverse_root(gram / 2, 4, 1e-4) @ u + s + n)

        gram was 2 * l
        u was 3 * m
        n was s
"""


def migrated(group: dist.ProcessGroup, dim: int, form: str) -> tuple[dict[str, float], list[str]]:
    """The errors after two steps of an older spec and two of a newer one, and the states that this rank has whole."""
    twins = Twins(group, case_of("SOAP", dim=dim, shapes={"a": (10, 6), "b": (3, 8), "c": (7, 5)}))
    older, newer = (compile_source(text).Whitened for text in (OLDER, NEWER))
    params = [list(each.items()) for each in (twins.whole, twins.sharded)]
    twins.one, twins.other = (older([{"params": each}]) for each in params)
    for t in (2, 3):
        twins.step(t)
    whole, sharded = twins.one.state_dict(), twins.other.state_dict()
    twins.one, twins.other = (newer([{"params": each}]) for each in params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twins.one.load_state_dict(whole)
        twins.other.load_state_dict(sharded if form == "sharded" else whole)
    for t in (4, 5):
        twins.step(t)
    return twins.errors(), [key for key in ("gram", "u", "n") if len(twins.other.state[twins.sharded["a"]][key])]


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("form", ["sharded", "whole"])
def test_what_owners_have_is_made_of_states_of_an_older_spec(ranks: Pool, dim: int, form: str) -> None:
    answers = ranks.run(3, migrated, dim, form)
    error, where = worst([errors for errors, _ in answers])
    assert error < 1e-9, where
    assert sorted(kept for _, kept in answers) == [["gram", "u", "n"], ["n"], ["n"]]
