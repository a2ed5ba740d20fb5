"""Everything on a CUDA machine in one command: build, check, measure.

    PYTHONPATH=src python -m benchmarks.gpu [--no-cold] [other options of benchmarks.optimizers]

Builds the generated classes where the compiler's libraries are installed, holds every contestant on the GPU to the same
steps in float64 as the plain class on the CPU, and writes benchmarks/RESULTS-<device>.md and .json. Nothing is measured
if a check fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import torch

from benchmarks import optimizers
from benchmarks.agreement import claims, difference
from benchmarks.contestants import Contestant

UNIT = 2.0**-8  # of bfloat16: the distance of neighbours, relative to their size
ROUNDINGS = 5 * 3 * UNIT  # of three matrices in each of five iterations


def build() -> None:
    """Writes generated/ anew, if lark and jinja2 are there."""
    if find_spec("lark") is None or find_spec("jinja2") is None:
        print("the compiler's libraries are not installed: the classes are those in the repository")
        return
    subprocess.run([sys.executable, "-m", "optforge", "build"], check=True)


def failures(device: torch.device) -> list[str]:
    """One line for each contestant that does not take the steps it claims to."""
    found = []
    for contestant, scope in claims(device.type, compiled=True):
        problem = _problem(contestant, scope, device)
        print(f"{'ok  ' if problem is None else 'FAIL'} {contestant.name} ({scope})", flush=True)
        if problem:
            found.append(f"{contestant.name} ({scope}): {problem}")
    return found


def _problem(contestant: Contestant, scope: str, device: torch.device) -> str | None:
    try:
        exact = difference(contestant, scope, device)
        if not exact <= contestant.within:
            return f"differs by {exact:.1e} of a step in float64; {contestant.within:.0e} is allowed"
        if contestant.method == "Muon" and not contestant.compiles:
            rounded = difference(contestant, scope, device, torch.float32, as_published=True)
            if not rounded <= ROUNDINGS:
                return f"differs by {rounded:.1e} of a step where it iterates in bfloat16; {ROUNDINGS:.0e} is allowed"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def file_name(device_name: str) -> str:
    """RESULTS-<device> in letters, digits and hyphens."""
    return "RESULTS-" + re.sub(r"[^A-Za-z0-9]+", "-", device_name).strip("-")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    device = torch.device("cuda")
    build()
    if found := failures(device):
        raise SystemExit("\n".join(["these do not take the steps they claim to; nothing was measured:", *found]))
    name = file_name(torch.cuda.get_device_name(device))
    optimizers.main(["--device", "cuda", "--write", name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
