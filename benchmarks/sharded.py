"""Steps of sharded parameters on several processes of this machine, scheme beside scheme: `make bench-sharded`.

    python -m benchmarks.sharded [--rounds N] [--worlds 2 4] [--write]

For each number of processes, which talk over gloo and have one thread each, all schemes of a method take turns on the
hidden matrices of a small transformer. `--write` puts the table into benchmarks/SHARDED.md and the numbers beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.multiprocessing.spawn import start_processes

from benchmarks.contestants import Step
from benchmarks.machine import describe
from benchmarks.optimizers import rounded
from benchmarks.peers import iterating_in
from benchmarks.results import ratios
from benchmarks.schemes import METHODS, Scheme, local, schemes, sharded
from benchmarks.shapes import GRADIENT_STD, WEIGHT_STD, count, entries, named, random_tensors
from benchmarks.table import markdown_table, number, spread
from benchmarks.traffic import Traffic

SCHEMA = 1
FOLDER = Path(__file__).parent
CPU = torch.device("cpu")
WARM_UP = 2  # steps before the one whose collectives are counted

NOTES = """How it is measured: all schemes of a method take turns, each round beginning with another one, and all ranks
begin a step together; gradients are written anew before it. A step takes as long as its slowest rank. Times are
medians; a ratio is the median over the rounds of the ratio within a round, with its quartiles. Everyone iterates in
float32. Collectives and bytes are those of one step of rank 0, counted where torch hands them to gloo.

*One process* has one thread and all matrices, while the others wait. *Owners* are what generated classes do with
DTensors; AdamW needs no other rank. In *all ranks compute all* each gathers all gradients and steps whole matrices. A
class of torch *on DTensors* sees nothing but these, so that its operators ask other ranks one by one. *Padded
all_to_all* is the scheme of microsoft/dion in a few lines, with our orthogonalization: as many equal matrices as there
are ranks travel together, filled up with zeros, and each rank gets one. The steps are the same for all, which
`tests/examples/test_bench_sharded.py` checks.
"""


class Runner:
    """A scheme that is ready to step on this rank."""

    def __init__(self, scheme: Scheme, mesh: DeviceMesh, model: str) -> None:
        chosen = entries(model, "hidden")
        whole = named(chosen, random_tensors(chosen, WEIGHT_STD, seed=0, device=CPU))
        noise = named(chosen, random_tensors(chosen, GRADIENT_STD, seed=1, device=CPU))
        self.scheme, self.group = scheme, mesh.get_group()
        self.takes_part = not scheme.alone or mesh.get_local_rank() == 0
        params, fresh = (whole, noise) if scheme.alone else (sharded(whole, mesh), sharded(noise, mesh))
        self.fresh = [local(p.tensor) for p in fresh]
        for p, gradient in zip(params, fresh, strict=True):
            p.tensor.grad = gradient.tensor.detach().clone()
        self.gradients: list[Tensor] = [local(p.tensor.grad) for p in params if p.tensor.grad is not None]
        self.step: Step = scheme.make(params) if self.takes_part else lambda: None

    def seconds(self) -> float:
        """Of one step, with all ranks that take part beginning at once."""
        torch._foreach_copy_(self.gradients, self.fresh)
        dist.barrier(self.group)
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def run_method(method: str, mesh: DeviceMesh, model: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each scheme of the method, the same on all ranks but for what this one has sent."""
    runners = [Runner(scheme, mesh, model) for scheme in schemes(method)]
    sent = []
    for runner in runners:
        for _ in range(WARM_UP):
            runner.seconds()
        with Traffic(mesh.get_local_rank(), mesh.size()) as traffic:
            runner.step()
        sent.append(traffic)
    times = torch.zeros(len(runners), rounds, dtype=torch.float64)
    gc.collect()
    gc.disable()
    for turn in range(rounds):
        for place in range(len(runners)):
            index = (place + turn) % len(runners)
            times[index, turn] = runners[index].seconds()
    gc.enable()
    dist.all_reduce(times, dist.ReduceOp.MAX, mesh.get_group())
    listed: list[list[float]] = times.tolist()
    return [
        {
            "method": method,
            "scheme": runner.scheme.name,
            "seconds": statistics.median(seconds),
            "all_seconds": seconds,
            "ratio": ratios(seconds, listed[0]),
            "calls": dict(sorted(traffic.calls.items())),
            "bytes": traffic.bytes,
        }
        for runner, seconds, traffic in zip(runners, listed, sent, strict=True)
    ]


def run_rank(rank: int, size: int, folder: str, model: str, rounds: int) -> None:
    """All methods on one rank; the first writes what was found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))
    with iterating_in(torch.float32):
        rows = [row for method in METHODS for row in run_method(method, mesh, model, rounds)]
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def run_world(size: int, model: str, rounds: int) -> dict[str, Any]:
    """The rows of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(run_rank, (size, folder, model, rounds), size, start_method="spawn")
        return {"ranks": size, "rows": json.loads(Path(folder, "rows.json").read_text(encoding="utf-8"))}


# -- the page ----------------------------------------------------------------------------------------------------------


def document(data: dict[str, Any]) -> str:
    """The whole page."""
    machine, chosen = data["machine"], entries(data["model"], "hidden")
    load = ", ".join(map(str, machine["load_average"]))
    lines = [
        f"- {machine['processor']}, {machine['cores']} cores, one thread a process, gloo, {machine['instructions']}",
        f"- Python {machine['python']}, torch {machine['versions']['torch']}, commit {machine['commit']}",
        f"- load average at the start: {load}. Above 0 the machine was shared with other work, which slows several\n"
        "  processes down more than one: look at ratios, which are of one run, rather than at times",
        f"- the {len(chosen)} hidden matrices of the {data['model']} transformer, {count(chosen) / 1e6:.2f} million "
        f"elements, sharded by rows; {data['rounds']} rounds",
    ]
    sections = ["# Sharded steps on one machine\n", f"Written by `{data['command']}`; do not edit.\n"]
    sections += ["\n".join(lines) + "\n", NOTES, *(_section(world, machine["cores"]) for world in data["worlds"])]
    return "\n".join(sections)


def _section(world: dict[str, Any], cores: int) -> str:
    crowded = f", on {cores} cores" if world["ranks"] > cores else ""
    head = ["method and scheme", "ms", "over one process", "collectives", "MB sent"]
    rows = [
        [
            f"{row['method']}: {row['scheme']}",
            number(row["seconds"] * 1e3, 4),
            spread(row["ratio"]),
            ", ".join(f"{times} {kind}" for kind, times in row["calls"].items()) or "none",
            number(row["bytes"] / 1e6),
        ]
        for row in world["rows"]
    ]
    return f"## {world['ranks']} processes{crowded}\n\n{markdown_table(head, rows)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each method and number of processes")
    parser.add_argument("--worlds", type=int, nargs="+", default=[2, 4], help="numbers of processes")
    parser.add_argument("--model", default="3x384", help="whose hidden matrices are stepped")
    parser.add_argument("--write", action="store_true", help="into benchmarks/SHARDED.md and .json")
    chosen = parser.parse_args(given)
    data = {
        "schema": SCHEMA,
        "command": " ".join(["python -m benchmarks.sharded", *given]),
        "machine": describe(CPU),
        "model": chosen.model,
        "rounds": chosen.rounds,
        "worlds": [run_world(size, chosen.model, chosen.rounds) for size in chosen.worlds],
    }
    page = document(data)
    print(page)
    if chosen.write:
        (FOLDER / "SHARDED.md").write_text(page, encoding="utf-8")
        (FOLDER / "SHARDED.json").write_text(json.dumps(rounded(data), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
