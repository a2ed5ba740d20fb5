"""The processes that train together, as ``torchrun`` starts them, or the one process that there is otherwise.

In: a device's name and torchrun's environment. Out: ``Processes``, which knows its place among the others and speaks
with them (gloo on a CPU, nccl on GPUs). Knows nothing of models and data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from examples.gpt2.config import ConfigError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process is number ``rank`` of ``world``; the first one writes files and speaks to the user."""

    device: torch.device
    rank: int = 0
    world: int = 1

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
def join_processes(device: str) -> Iterator[Processes]:
    """The group that this process belongs to, on ``device`` (``cuda``: the GPU with the process's local number).

    Raises ``ConfigError`` for a device that is not there.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = _find_device(device, int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else None)
    if world == 1:
        yield Processes(place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(place, rank, world)
    finally:
        distributed.destroy_process_group()


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
