"""Events that are given matrices, on DTensors: the same whole value on all ranks, or one that lies as a state would."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import optforge
from optforge.generated import MuonClip, NewtonMuon
from tests.support.ranks import Pool

MODULE = optforge.compile_source(
    """
optimizer AllShapes:
    on sides(k: cols x cols, r: rows x rows, level: rows x 1, width: 1 x cols, g: rows x cols):
        k_2 = k @ k
        r_2 = r @ (grad + g)
        s   = level * width

    for matrix:
        weight <- weight - 0.1 * (grad + s + r_2) @ k_2

    for rest:
        weight <- weight - 0.1 * grad

optimizer OneName:
    on sides(m: rows x 1):
        h = m

    for matrix:
        m = eigenbasis(ema(grad @ grad', 0.5))
        weight <- weight - 0.1 * (m @ grad + h)

    for rest:
        weight <- weight - 0.1 * grad

optimizer Stateless:
    on turn(k: cols x cols):
        weight <- weight @ k

    for matrix:
        weight <- weight - 0.1 * grad

    for rest:
        weight <- weight - 0.1 * grad
"""
)
SIZES = {"cols": 1, "rows": 0}
SHAPES = ((7, 5), (3, 4), (8, 8))


def samples(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def placed(x: Tensor, mesh: DeviceMesh, placements: Sequence[Any]) -> Any:
    return distribute_tensor(x, mesh, placements, src_data_rank=None)


def given(cls: Any, event: str, shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Tensor]]:
    """What each parameter of these shapes is given; squares are second moments."""
    rule = next(each for each in cls.RULES if each.name == "matrix")
    found = []
    for seed, shape in enumerate(shapes):
        own = {}
        for each in next(e for e in rule.events if e.name == event).given:
            sides = [shape[SIZES[side]] if side in SIZES else 1 for side in each.shape]
            (own[each.name],) = samples(50 + seed, (sides[0], sides[1]))
            if sides[0] == sides[1] > 1:
                own[each.name] = own[each.name] @ own[each.name].T
        found.append(own)
    return found


def steps_alike(group: Any, cls: Any, event: str, placement: Any) -> None:
    mesh = DeviceMesh.from_group(group, "cpu")
    values = samples(0, *SHAPES)
    one = [nn.Parameter(x.clone()) for x in values]
    parts = [nn.Parameter(placed(x, mesh, [placement])) for x in values]
    sides = [(cls([{"params": params, "rule": "matrix"}]), params) for params in (one, parts)]
    for t in (1, 2):
        grads = samples(t, *SHAPES)
        for optimizer, params in sides:
            for p, grad in zip(params, grads, strict=True):
                p.grad = placed(grad, mesh, [placement]) if isinstance(p, DTensor) else grad.clone()
            called = given(cls, event, SHAPES)
            names = called[0]
            listed = [*zip(params, called, strict=True)][t - 1 :]  # the first one is left out once
            getattr(optimizer, event)(**{name: {p: own[name] for p, own in listed} for name in names})
            optimizer.step()
    for start, p, q in zip(values, one, parts, strict=True):
        far = (p.detach() - start).abs().max()
        assert (p.detach() - q.detach().full_tensor()).abs().max() <= 1e-11 * far
    for p, q in zip(one, parts, strict=True):
        assert sides[0][0].state[p][f"{event}_step"] == sides[1][0].state[q][f"{event}_step"]


CASES = [
    (NewtonMuon, "activations"),
    (MuonClip, "clip"),
    (MODULE.AllShapes, "sides"),
    (MODULE.OneName, "sides"),
    (MODULE.Stateless, "turn"),
]


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
@pytest.mark.parametrize(("cls", "event"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_parts_are_given_what_whole_parameters_are(ranks: Pool, cls: Any, event: str, placement: Any) -> None:
    ranks.run(3, steps_alike_of, cls.__name__, event, placement)


def steps_alike_of(group: Any, name: str, event: str, placement: Any) -> None:
    """Classes that are compiled in memory are those of each process."""
    steps_alike(group, {cls.__name__: cls for cls, _ in CASES}[name], event, placement)


def dtensors(group: Any) -> None:
    """What is a DTensor itself lies as a state would, or is refused before anything has moved."""
    mesh = DeviceMesh.from_group(group, "cpu")
    x, level = samples(0, (8, 6), (8, 1))
    for value, problem in (
        (placed(level, mesh, [Shard(0)]), None),
        (placed(level, mesh, [Replicate()]), "one that lies as a state would"),
        (placed(level[:6], mesh, [Shard(0)]), re.escape("(6, 1)")),
        (level[:4], re.escape("has shape (4, 1), where (8, 1) is expected")),
    ):
        p = nn.Parameter(placed(x, mesh, [Shard(0)]))
        optimizer = MuonClip([{"params": [p], "rule": "matrix"}], tau=0.01)
        if problem is None:
            optimizer.clip({p: value})
            assert torch.allclose(p.detach().full_tensor(), x * (0.01 / level.clamp(min=0.01)).sqrt())
        else:
            with pytest.raises(ValueError, match=problem):
                optimizer.clip({p: value})
            assert torch.equal(p.detach().full_tensor(), x)


def split_rows(group: Any) -> None:
    """A split matrix, its parts on several ranks: rows are given theirs, and what each part has one of is refused."""
    mesh = DeviceMesh.from_group(group, "cpu")
    x, level = samples(0, (9, 6), (9, 1))
    p = nn.Parameter(placed(x, mesh, [Shard(0)]))
    optimizer = MuonClip([{"params": [p], "rule": "matrix", "split": 3}], tau=0.01)
    optimizer.clip({p: level})
    assert torch.allclose(p.detach().full_tensor(), x * (0.01 / level.clamp(min=0.01)).sqrt())
    with pytest.raises(NotImplementedError, match=r"^qkv of .*cannot be cut as the parameter is"):
        NewtonMuon([{"params": [("qkv", p)], "rule": "matrix", "split": 3}])
    with pytest.raises(NotImplementedError, match=r"^qkv of .*'k' of the event 'turn' .*cannot be cut"):
        MODULE.Stateless([{"params": [("qkv", p)], "rule": "matrix", "split": 3}])


@pytest.mark.parametrize("case", [dtensors, split_rows], ids=lambda each: each.__name__)
def test_what_cannot_be_cut_is_refused_by_name(ranks: Pool, case: Any) -> None:
    ranks.run(2, case)
