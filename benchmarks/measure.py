"""Times and memory of steps, and the limits of the machine they are held against.

Contestants of one race take turns in one process, so that what the machine does besides falls on all of them alike.
Before each timed step every gradient is written anew, as a backward pass does: it is equally far from the processor for
everyone, and whoever overwrites gradients starts from the same ones.
"""

from __future__ import annotations

import gc
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import Contestant, Step
from benchmarks.races import STREAM_ELEMENTS, Race
from benchmarks.shapes import GRADIENT_STD, WEIGHT_STD, Named, count, entries, named, random_tensors
from optforge import explain_orthogonalize

WARM_UP = 3  # steps before the first one counted: first states, then compilation, then recorded graphs
LEAST_ROUNDS, MOST_ROUNDS = 3, 41
SLOW_STEP = 1.0  # seconds, from which one warm-up step is enough
HEAT_BYTES = 6e9  # that contestants may hold together: pages of those who wait for long are taken from them
BYTES_HELD = 12  # per parameter, by one contestant: its weights and two memories
READY_WITHIN = 240.0  # seconds for a package to be ready, which may compile and tune for as long as it likes


@dataclass
class Timing:
    """What was measured of one contestant: seconds of each round, and those until `step` returned.

    `base` are the seconds of the baseline in the same rounds.
    """

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    base: list[float] = field(default_factory=list)


@dataclass
class Result:
    """A race on one model."""

    race: Race
    model: str
    tensors: int
    parameters: int
    timings: list[Timing]
    failed: dict[str, str]


class Track:
    """The gradients that all contestants of a race share, and the weights that all start from."""

    def __init__(self, model: str, scope: str, device: torch.device) -> None:
        self.device = device
        self.entries = entries(model, scope)
        self.noise = random_tensors(self.entries, GRADIENT_STD, seed=1, device=device)
        self.weights = random_tensors(self.entries, WEIGHT_STD, seed=0, device=device)
        self.gradients = [torch.empty_like(noise) for noise in self.noise]

    def params(self) -> list[Named]:
        return named(self.entries, self.weights)

    def refill(self, params: Sequence[Named]) -> None:
        """Fresh gradients, always in the same memory."""
        torch._foreach_copy_(self.gradients, self.noise)
        for p, gradient in zip(params, self.gradients, strict=True):
            p.tensor.grad = gradient


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Step, device: torch.device) -> tuple[float, float]:
    """Seconds until the step is done, and until it returned."""
    synchronize(device)
    start = time.perf_counter()
    step()
    returned = time.perf_counter()
    synchronize(device)
    return time.perf_counter() - start, returned - start


def run_race(
    race: Race,
    model: str,
    device: torch.device,
    *,
    budget: float,
    rounds: int | None = None,
    log: Callable[[str], None],
) -> Result:
    """All contestants in turn, each round beginning with another; rounds fill `budget` seconds unless they are given.

    Where they do not fit in memory together they run in heats, each with the baseline. A package that raises, or is
    not ready in time, is left out and named in `failed`: it must not cost the others their measurement.
    """
    track = Track(model, race.scope, device)
    result = Result(race, model, len(track.entries), count(track.entries), [], {})
    groups = heats(race, result.parameters)
    for heat in groups:
        timings = run_heat(heat, race, track, budget / len(groups), rounds, result.failed, log)
        result.timings += timings if heat is groups[0] else timings[1:]
        gc.collect()
    return result


def heats(race: Race, parameters: int) -> list[tuple[Contestant, ...]]:
    """The contestants in groups, the baseline first in each."""
    base = next(contestant for contestant in race.contestants if contestant.name == race.baseline)
    others = [contestant for contestant in race.contestants if contestant is not base]
    size = max(1, int(HEAT_BYTES // (BYTES_HELD * parameters)) - 1)
    return [(base, *others[start : start + size]) for start in range(0, len(others), size)] or [(base,)]


def run_heat(
    heat: Sequence[Contestant],
    race: Race,
    track: Track,
    budget: float,
    rounds: int | None,
    failed: dict[str, str],
    log: Callable[[str], None],
) -> list[Timing]:
    """The timings of a heat, the baseline's first; who does not get ready is added to `failed`."""
    running: list[tuple[Timing, Step, list[Named]]] = []
    for contestant in heat:
        params = track.params()
        start = time.perf_counter()
        limit = nullcontext() if contestant.package == "generated" else ready_within(READY_WITHIN)
        try:
            with limit:
                step = contestant.make(params)
                warm_up(step, params, track, least=2 if contestant.compiles else 1)
        except Exception as error:
            if contestant.package == "generated" or contestant.name == race.baseline:
                raise
            failed[contestant.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        log(f"  {contestant.name}: ready after {time.perf_counter() - start:.1f} s")
        running.append((Timing(contestant), step, params))
    for timing, step, params in running:
        timing.base = running[0][0].seconds
        track.refill(params)
        timing.peak_bytes = peak_extra_bytes(step, track.device)
    _take_turns(running, track, budget, rounds)
    return [timing for timing, _, _ in running]


@contextmanager
def ready_within(seconds: float) -> Iterator[None]:
    """TimeoutError if the block takes longer; once more every second, as tuners swallow what candidates raise."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not ready after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def warm_up(step: Step, params: Sequence[Named], track: Track, least: int = 1) -> None:
    """Until nothing is made for the first time any more; `least` steps if they are slow: one more measures memory."""
    for number in range(WARM_UP):
        track.refill(params)
        seconds, _ = timed(step, track.device)
        if number + 1 >= least and seconds > SLOW_STEP:
            return


def _take_turns(
    running: Sequence[tuple[Timing, Step, list[Named]]], track: Track, budget: float, rounds: int | None
) -> None:
    start, number = time.perf_counter(), 0
    gc.collect()
    gc.disable()
    try:
        while number < (rounds or MOST_ROUNDS):
            spent = time.perf_counter() - start
            if rounds is None and number >= LEAST_ROUNDS and spent * (number + 1) / number > budget:
                break
            shift = number % len(running)
            for timing, step, params in (*running[shift:], *running[:shift]):
                track.refill(params)
                seconds, host = timed(step, track.device)
                timing.seconds.append(seconds)
                timing.host_seconds.append(host)
            number += 1
    finally:
        gc.enable()


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_extra_bytes(step: Step, device: torch.device) -> int:
    """The most that the step holds at once beyond what was there before it, of torch's allocator.

    On the CPU from the profiler's record of allocations: what a library takes from the system itself (packed matrices
    inside a product) is not in it.
    """
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return peak


# -- limits ------------------------------------------------------------------------------------------------------------


def best_seconds(call: Callable[[], object], device: torch.device, times: int = 7) -> float:
    """The shortest of several runs, after one that does not count: a limit is what the machine can do."""
    call()
    return min(timed(call, device)[0] for _ in range(times))


def bandwidth(device: torch.device) -> float:
    """Bytes per second of x += y on long tensors, each byte read or written counted once."""
    elements = STREAM_ELEMENTS.get(device.type, 1 << 25)
    x, y = torch.zeros(elements, device=device), torch.zeros(elements, device=device)
    return 12 * elements / best_seconds(lambda: x.add_(y), device)


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large square product."""
    size = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(x)
    return 2 * size**3 / best_seconds(lambda: torch.mm(x, y, out=out), device, times=5)


def iteration_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that peers are made to iterate in; None where the published bfloat16 is what ours iterate in too."""
    fast = " in bfloat16, " in explain_orthogonalize((1024, 1024), device=device)
    return None if fast else torch.float32


def limits(device: torch.device) -> dict[str, float]:
    dtype = iteration_dtype(device) or torch.bfloat16
    return {"bytes_per_second": bandwidth(device), "gemm_flops_per_second": gemm_rate(device, dtype)}


# -- profiles ----------------------------------------------------------------------------------------------------------


def operator_times(step: Step, device: torch.device, rows: int = 15) -> str:
    """Where the time of one step goes, by operator: for arguing about a target."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities, record_shapes=False) as record:
        step()
        synchronize(device)
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    averages: Any = record.key_averages()
    table: str = averages.table(sort_by=key, row_limit=rows, max_name_column_width=50)
    return table


def warmed(contestant: Contestant, race: Race, model: str, device: torch.device) -> tuple[Step, Tensor]:
    """A contestant's step with fresh gradients, after its warm-up; and a tensor that keeps them alive."""
    track = Track(model, race.scope, device)
    params = track.params()
    step = contestant.make(params)
    warm_up(step, params, track)
    track.refill(params)
    return step, track.gradients[0]
