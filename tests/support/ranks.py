"""Processes that play the ranks of a distributed run: one pool of four for all tests, made when the first one asks.

`pool.run(world, function, *arguments)` calls `function(group, *arguments)` on the first `world` of them, and gives what
they return, in the order of the ranks. The function is one that can be imported. An error on a rank is an error here,
and so is a rank that does not answer in time; the next call then gets new processes.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

SIZE = 4
PATIENCE = 60.0  # seconds


@cache
def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    """On each rank once: every new mesh has groups of processes of its own, with their threads."""
    return init_device_mesh("cpu", shape)


class RankError(Exception):
    """A function has failed on a rank: its traceback, or how the process has ended."""


class Pool:
    """The processes, once there are any."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, world: int, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE) -> list[Any]:
        """What the function returns on each of the first `world` ranks; `RankError` for the first that has failed."""
        if not self._processes:
            self._start()
        task = pickle.dumps((world, function, arguments))
        for pipe in self._pipes[:world]:
            pipe.send_bytes(task)
        answers = self._answers(world, time.monotonic() + patience)
        if failed := [f"rank {rank}: {found}" for rank, (fine, found) in enumerate(answers) if not fine]:
            self.close()
            raise RankError("\n".join(failed))
        return [found for _, found in answers]

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")  # torch is imported once, by a process without threads
        context.set_forkserver_preload(["torch.distributed.tensor"])
        self._folder = tempfile.TemporaryDirectory()
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, f"{self._folder.name}/store", theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _answers(self, world: int, end: float) -> list[tuple[bool, Any]]:
        """What each rank has to say; after the first failure the others have three seconds left."""
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < world:
            for rank in (rank for rank in range(world) if rank not in answers):
                try:
                    if self._pipes[rank].poll(0.002):
                        answers[rank] = pickle.loads(self._pipes[rank].recv_bytes())
                except (EOFError, ConnectionError):
                    self._processes[rank].join()
                    answers[rank] = (False, f"ended with {self._processes[rank].exitcode}")
                if not answers.get(rank, (True, None))[0]:
                    end = min(end, time.monotonic() + 3)
            if time.monotonic() > end:
                answers = {rank: answers.get(rank, (False, "no answer")) for rank in range(world)}
        return [answers[rank] for rank in range(world)]


def _serve(rank: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    init = Path(store).as_uri()
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=SIZE, timeout=timedelta(seconds=PATIENCE))
    groups = [dist.new_group(list(range(world))) for world in range(1, SIZE + 1)]
    while True:
        try:
            world, function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:  # the tests are over
            return
        try:
            answer = (True, function(groups[world - 1], *arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
