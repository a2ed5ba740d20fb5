"""Ways to step matrices whose rows lie on several ranks: who takes part in `benchmarks.sharded`.

A scheme is made from named parameters, DTensors that are sharded by rows, and gives a function that takes one step. One
process without sharding is made from whole parameters, and is what the others are divided by. All schemes of a method
have the same hypers and the same steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from benchmarks.contestants import HYPERS, Make, Step, make_optimizer, torchs
from benchmarks.shapes import Named
from optforge import runtime

METHODS = ("Muon", "NorMuon", "NAMO", "AdamW")
UNDER_WAY = 3  # batches of the padded scheme at a time, as many as ours


@dataclass(frozen=True)
class Scheme:
    """Who steps, and how it is made; `alone` is one process with whole parameters."""

    name: str
    method: str
    make: Make
    alone: bool = False


def schemes(method: str) -> list[Scheme]:
    """All ways of a method, one process first."""
    found = [
        Scheme("one process", method, partial(_generated, method), alone=True),
        Scheme("owners", method, partial(_generated, method)),
    ]
    if method in ("Muon", "AdamW"):
        theirs = torchs(method)[0]
        found += [
            Scheme("all ranks compute all", method, partial(everywhere, method)),
            Scheme(f"{theirs.name} on DTensors", method, theirs.make),
        ]
    if method == "Muon":
        found.append(Scheme("padded all_to_all", method, padded))
    return found


def shard(x: Tensor, mesh: DeviceMesh) -> DTensor:
    """This rank's rows of a tensor that all ranks have."""
    return distribute_tensor(x, mesh, [Shard(0)], src_data_rank=None)


def sharded(params: Sequence[Named], mesh: DeviceMesh) -> list[Named]:
    """The same parameters by rows."""
    return [Named(p.name, p.role, nn.Parameter(shard(p.tensor.detach(), mesh))) for p in params]


def local(x: Tensor) -> Tensor:
    """What this rank has of it."""
    return x.detach().to_local() if isinstance(x, DTensor) else x.detach()


# -- schemes -----------------------------------------------------------------------------------------------------------


def _generated(method: str, params: Sequence[Named]) -> Step:
    step: Step = make_optimizer(method, params).step
    return step


def everywhere(method: str, params: Sequence[Named]) -> Step:
    """Every rank gathers all gradients, steps whole copies of all parameters, and keeps its rows of them."""
    copies = [Named(p.name, p.role, nn.Parameter(_dtensor(p.tensor).full_tensor())) for p in params]
    optimizer = make_optimizer(method, copies)

    def step() -> None:
        for p, copy in zip(params, copies, strict=True):
            copy.tensor.grad = _dtensor(p.tensor.grad).full_tensor()
        optimizer.step()
        for p, copy in zip(params, copies, strict=True):
            mesh = _dtensor(p.tensor).device_mesh
            local(p.tensor).copy_(local(shard(copy.tensor.detach(), mesh)))

    return step


def padded(params: Sequence[Named]) -> Step:
    """Muon in batches of as many equal matrices as there are ranks, each of which gets one of them.

    The scheme of microsoft/dion, in float32: one all_to_all there and one back for each batch, which is filled up with
    matrices and rows of zeros.
    """
    mesh = _dtensor(params[0].tensor).device_mesh
    momenta = {p.name: torch.zeros_like(local(p.tensor)) for p in params}
    by_shape: dict[torch.Size, list[Named]] = {}
    for p in params:
        by_shape.setdefault(p.tensor.shape, []).append(p)
    size = mesh.size()
    batches = [alike[i : i + size] for alike in by_shape.values() for i in range(0, len(alike), size)]

    def step() -> None:
        _interleave(_step_padded(batch, [momenta[p.name] for p in batch], mesh) for batch in batches)

    return step


def _step_padded(batch: Sequence[Named], momenta: Sequence[Tensor], mesh: DeviceMesh) -> Iterator[None]:
    lr, beta, decay = (HYPERS["Muon"][name] for name in ("lr", "beta", "weight_decay"))
    size, (rows, cols) = mesh.size(), batch[0].tensor.shape
    most = -(-rows // size)
    outgoing = momenta[0].new_zeros(size, most, cols)
    for place, p, m in zip(outgoing, batch, momenta, strict=False):
        gradient = local(_dtensor(p.tensor.grad))
        m.lerp_(gradient, 1 - beta)
        place[: len(m)] = m.lerp(gradient, 1 - beta)
    whole = yield from _exchanged(outgoing, mesh)
    whole.view(size * most, cols)[:rows] = runtime.orthogonalize(whole.view(size * most, cols)[:rows])
    arrived = yield from _exchanged(whole, mesh)
    for p, update in zip(batch, arrived, strict=False):
        weight = local(p.tensor)
        weight.mul_(1 - lr * decay).sub_(update[: len(weight)], alpha=lr * math.sqrt(max(1, rows / cols)))


def _exchanged(outgoing: Tensor, mesh: DeviceMesh) -> Generator[None, None, Tensor]:
    """What comes where `outgoing[rank]` goes to each rank; yields while it is under way."""
    arrived = torch.empty_like(outgoing)
    work = dist.all_to_all_single(arrived, outgoing, group=mesh.get_group(), async_op=True)
    yield
    work.wait()
    return arrived


def _interleave(tasks: Iterable[Iterator[None]]) -> None:
    """Runs all to their ends, a few of them in turn."""
    waiting, under_way = iter(tasks), deque[Iterator[None]]()
    while True:
        while len(under_way) < UNDER_WAY and (task := next(waiting, None)) is not None:
            under_way.append(task)
        if not under_way:
            return
        task = under_way.popleft()
        if next(task, task) is not task:
            under_way.append(task)


def _dtensor(x: Tensor | None) -> DTensor:
    assert isinstance(x, DTensor)
    return x
