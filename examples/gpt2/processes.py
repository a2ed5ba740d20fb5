"""The processes that train together, as ``torchrun`` starts them, or the one process that there is otherwise.

In: a device's name and torchrun's environment. Out: ``Processes``, which knows its place among the others and speaks
with them (gloo on a CPU, nccl on GPUs); where a model is to be sharded, they form a mesh. Knows nothing of models and
data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from examples.gpt2.config import ConfigError


@dataclass(frozen=True, slots=True)
class Sharding:
    """Parameters in shards: over all processes, or ``hybrid``, over those of each of several replicas.

    A hybrid with no number of ``replicas`` has one on each machine.
    """

    hybrid: bool = False
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Processes:
    """This process is number ``rank`` of ``world``; the first one writes files and speaks to the user.

    Where parameters are sharded, ``mesh`` says over whom: (shards,), or (replicas, shards).
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """The mean of ``value`` over all processes; all must call it."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.item() / self.world

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world > 1:
            distributed.barrier()

    def synchronize(self) -> None:
        """Return when the device has done what it was told: only then may a clock be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def join_processes(device: str, sharding: Sharding | None = None) -> Iterator[Processes]:
    """The group that this process belongs to, on ``device`` (``cuda``: the GPU with the process's local number).

    Raises ``ConfigError`` for a device that is not there, or a ``sharding`` that these processes cannot have.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    shape = find_mesh(sharding, os.environ) if sharding else None
    place = _find_device(device, int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else None)
    if world == 1 and shape is None:
        yield Processes(place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(place, rank, world, form_mesh(place.type, shape) if shape else None)
    finally:
        distributed.destroy_process_group()


def find_mesh(sharding: Sharding, environment: Mapping[str, str]) -> tuple[int, ...]:
    """The sizes of the mesh for ``sharding`` in torchrun's ``environment``: (shards,), or (replicas, shards).

    Raises ``ConfigError`` where there is no such mesh.
    """
    if "RANK" not in environment:
        raise ConfigError(
            "--shard needs the processes that torchrun starts: "
            "torchrun --nproc-per-node 2 -m examples.gpt2 train --shard full ..."
        )
    world = int(environment["WORLD_SIZE"])
    if not sharding.hybrid:
        return (world,)
    replicas = sharding.replicas or world // int(environment.get("LOCAL_WORLD_SIZE", world))
    if replicas < 2 or world % replicas or world == replicas:
        raise ConfigError(
            f"--shard hybrid needs two dimensions, several replicas of several processes each, and there are {world} "
            f"processes for {replicas}: choose --shard hybrid:REPLICAS, other processes, or --shard full"
        )
    return replicas, world // replicas


def form_mesh(kind: str, shape: tuple[int, ...]) -> DeviceMesh:
    """All processes, which are joined, as a mesh of this ``shape`` on devices of one ``kind``."""
    return init_device_mesh(kind, shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])


def _find_device(name: str, local_rank: int | None) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device named {name}; expected cpu, cuda, or cuda:0") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"device {name}: torch finds no GPU here")
    if local_rank is not None and device.index is None:
        device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
