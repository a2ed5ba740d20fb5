"""How long a class takes to be ready in a fresh process with empty caches, and whether it ever compiles again.

    python -m benchmarks.cold METHOD --model gpt2-small --backend compile [--device cuda]

prints one JSON object. `measure_cold` runs that in a process of its own, with caches in a folder that is thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

STEPS_FOR_COMPILING = 2
STEPS_WITH_CHANGES = 2
FACTOR = 0.9375  # of every hyper at every step: keeps the order of those that a condition compares


def measure_cold(method: str, model: str, device: str, backend: str, timeout: float = 600) -> dict[str, Any]:
    """What `main` prints, from a process with empty caches; {"error": ...} if it fails or takes too long."""
    with tempfile.TemporaryDirectory() as caches:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TRITON_CACHE_DIR": f"{caches}/t"}
        command = [sys.executable, "-m", "benchmarks.cold", method]
        command += ["--model", model, "--device", device, "--backend", backend]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"error": f"no result after {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def graphs() -> int:
    """Graphs that torch's compiler has made in this process, with torch.compile around it or without."""
    from torch._dynamo.utils import counters

    return int(counters["aot_autograd"]["total"])


def float_hypers(group: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if isinstance(group[name], float)]


def measure(method: str, model: str, device_name: str, backend: str) -> dict[str, Any]:
    """Seconds of the first steps beyond those of later ones, and graphs made when hypers change."""
    import torch

    from benchmarks.contestants import HYPERS, make_optimizer
    from benchmarks.measure import Track, timed

    device = torch.device(device_name)
    track = Track(model, "all", device)
    params = track.params()
    start = time.perf_counter()
    optimizer = make_optimizer(method, params, backend)

    def seconds() -> float:
        track.refill(params)
        return timed(optimizer.step, device)[0]

    first = [seconds() for _ in range(STEPS_FOR_COMPILING)]
    until_ready = time.perf_counter() - start
    steady = min(seconds() for _ in range(2))
    ready = graphs()
    for _ in range(STEPS_WITH_CHANGES):
        for group in optimizer.param_groups:
            for name in float_hypers(group, tuple(HYPERS[method])):
                group[name] *= FACTOR
        seconds()
    changed = graphs()
    optimizer.param_groups[0]["lr"] *= 0.5
    for _ in range(STEPS_WITH_CHANGES):
        seconds()
    return {
        "seconds": until_ready - len(first) * steady,
        "steady_seconds": steady,
        "graphs": ready,
        "recompilations": changed - ready,
        "recompilations_between_groups": graphs() - changed,
        "groups": len(optimizer.param_groups),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("--model", default="gpt2-small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="")
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.method, chosen.model, chosen.device, chosen.backend)))


if __name__ == "__main__":
    main()
