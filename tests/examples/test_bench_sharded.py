"""The benchmark of sharded steps: the same steps in all schemes, and collectives counted as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from benchmarks import schemes as benchmark
from benchmarks.peers import iterating_in
from benchmarks.schemes import METHODS, Scheme, schemes, shard, sharded
from benchmarks.shapes import entries, named, random_tensors
from benchmarks.sharded import document, run_method
from benchmarks.traffic import Traffic
from tests.support.ranks import Pool

CPU = torch.device("cpu")
CHOSEN = entries("tiny", "hidden")  # two matrices of each of four shapes
STEPS = 2


def take_steps(scheme: Scheme, mesh: DeviceMesh, dtype: torch.dtype) -> list[torch.Tensor]:
    """How far the parameters have come."""
    start = random_tensors(CHOSEN, 1.0, seed=0, device=CPU, dtype=dtype)
    params = named(CHOSEN, start)
    if not scheme.alone:
        params = sharded(params, mesh)
    step = scheme.make(params)
    for t in range(STEPS):
        for p, gradient in zip(params, random_tensors(CHOSEN, 1.0, seed=1 + t, device=CPU, dtype=dtype), strict=True):
            p.tensor.grad = gradient if scheme.alone else shard(gradient, mesh)
        step()
    ends = [p.tensor.detach() for p in params]
    ends = [end.full_tensor() if isinstance(end, DTensor) else end for end in ends]
    return [end - before for end, before in zip(ends, start, strict=True)]


def differences(group: Any, method: str, lr: float = 1.0) -> dict[str, float]:
    """Of each scheme of a method, in float64: the largest difference from one process, relative to the way."""
    mesh = DeviceMesh.from_group(group, "cpu")
    alone, *others = schemes(method)
    with iterating_in(torch.float64), pytest.MonkeyPatch.context() as patch:
        expected = take_steps(alone, mesh, torch.float64)
        patch.setitem(benchmark.HYPERS, method, {**benchmark.HYPERS[method], "lr": lr * benchmark.HYPERS[method]["lr"]})
        found = {scheme.name: take_steps(scheme, mesh, torch.float64) for scheme in others}
    return {
        name: max(float((x - y).norm() / y.norm()) for x, y in zip(ways, expected, strict=True))
        for name, ways in found.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_all_schemes_take_the_steps_of_one_process(ranks: Pool, method: str) -> None:
    (found, *_) = ranks.run(3, differences, method)
    assert len(found) == {"Muon": 4, "AdamW": 3}.get(method, 1)
    assert max(found.values()) < 1e-9, found


def test_other_hypers_are_other_steps(ranks: Pool) -> None:
    (found, *_) = ranks.run(2, differences, "Muon", 1.001)
    assert found["padded all_to_all"] > 5e-4


def traffic_of(group: Any, name: str) -> tuple[dict[str, int], float]:
    """What this rank sends for a step of Muon."""
    mesh = DeviceMesh.from_group(group, "cpu")
    params = sharded(named(CHOSEN, random_tensors(CHOSEN, 1.0, seed=0, device=CPU)), mesh)
    for p in params:
        p.tensor.grad = p.tensor.detach().clone()
    step = next(scheme for scheme in schemes("Muon") if scheme.name == name).make(params)
    step()
    with Traffic(mesh.get_local_rank(), mesh.size()) as traffic:
        step()
    return dict(traffic.calls), traffic.bytes


ELEMENTS = sum(entry.numel for entry in CHOSEN)


def test_owners_send_shards_there_and_back(ranks: Pool) -> None:
    """Half of what others own, and for each matrix owned the other's half of it; one agreement."""
    for calls, sent in ranks.run(2, traffic_of, "owners"):
        assert calls["all_to_all"] == 2 * 4
        agreement = sent - 2 * 4 * ELEMENTS // 4
        assert calls["all_reduce"] == 1 and 0 < agreement < 100


def test_padding_is_counted(ranks: Pool) -> None:
    """Two matrices of a shape travel as three of rows that three ranks divide."""
    padded_rows = {entry.shape: -(-entry.shape[0] // 3) * entry.shape[1] for entry in CHOSEN}
    for calls, sent in ranks.run(3, traffic_of, "padded all_to_all"):
        assert calls == {"all_to_all": 2 * 4}
        assert sent == pytest.approx(2 * 2 * 4 * sum(padded_rows.values()))


def test_gathering_is_counted(ranks: Pool) -> None:
    for calls, sent in ranks.run(2, traffic_of, "all ranks compute all"):
        assert (calls, sent) == ({"all_gather": len(CHOSEN)}, 4 * ELEMENTS / 2)


def counted(group: Any) -> tuple[dict[str, int], float]:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    with Traffic(rank, size) as traffic:
        dist.all_reduce(torch.zeros(6, dtype=torch.float64), group=group)
        dist.all_to_all_single(torch.zeros(3 * rank + 3), torch.zeros(6), [rank + 1] * 3, [1, 2, 3], group=group)
        dist.all_to_all_single(torch.zeros(6), torch.zeros(6), group=group)
    return dict(traffic.calls), traffic.bytes


def test_bytes_leave_a_rank(ranks: Pool) -> None:
    for rank, (calls, sent) in enumerate(ranks.run(3, counted)):
        assert calls == {"all_reduce": 1, "all_to_all": 2}
        assert sent == pytest.approx(2 * 48 * 2 / 3 + 4 * (6 - (rank + 1)) + 4 * 4)


def rows_of(group: Any) -> list[dict[str, Any]]:
    with iterating_in(torch.float32):
        return run_method("NAMO", DeviceMesh.from_group(group, "cpu"), "tiny", 2)


def test_the_page_has_a_row_for_each_scheme(ranks: Pool) -> None:
    rows = ranks.run(3, rows_of)[0]
    assert [row["scheme"] for row in rows] == ["one process", "owners"]
    assert rows[0]["ratio"]["median"] == 1 and rows[0]["calls"] == {}
    assert len(rows[1]["all_seconds"]) == 2 and min(rows[1]["all_seconds"]) > 0
    machine = {
        "processor": "P",
        "cores": 2,
        "instructions": "I",
        "python": "3",
        "versions": {"torch": "2"},
        "commit": "c",
    }
    machine["load_average"] = [1.5]
    world = {"ranks": 3, "rows": rows}
    page = document({"machine": machine, "model": "tiny", "rounds": 2, "command": "C", "worlds": [world]})
    assert "## 3 processes, on 2 cores" in page
    assert "| NAMO: owners |" in page and "| NAMO: one process |" in page
