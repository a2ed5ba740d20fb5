"""What a measurement depends on besides the code: machine, versions, threads, environment."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "pytorch_optimizer", "heavyball", "triton", "numpy")
VARIABLES = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD", "CUBLAS_WORKSPACE_CONFIG")


def describe(device: torch.device) -> dict[str, Any]:
    """Everything that a reader needs to compare a result with one of another machine."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: number for name in PACKAGES if (number := installed_version(name))},
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "transparent_hugepages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": commit(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    return found


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, where Linux tells it."""
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def commit() -> str:
    """The commit that was measured, with a plus if the files differ from it."""
    folder = Path(__file__).parent
    try:
        found = [
            subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found[0] + ("+" if found[1] else "")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _first_line(path: str) -> str:
    return _text(path).partition("\n")[0]
