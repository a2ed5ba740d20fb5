"""How fast generated optimizers are, beside torch.optim, pytorch_optimizer and heavyball.

    python -m benchmarks.optimizers [--model gpt2-small|6x384|both] [--methods AdamW Muon ...] [--rounds N]
                                    [--device cpu|cuda] [--slow] [--no-cold] [--write [NAME]] [--profile METHOD]

prints the tables; with --write they go to benchmarks/NAME.md and the numbers to benchmarks/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import reference
from benchmarks.cold import measure_cold
from benchmarks.contestants import backends
from benchmarks.machine import describe
from benchmarks.measure import iteration_dtype, limits, operator_times, run_race, warmed
from benchmarks.peers import PACKAGES, installed, iterating_in
from benchmarks.races import METHODS, ORTHOGONALIZING, races
from benchmarks.results import SCHEMA, race_rows
from benchmarks.table import document, number
from benchmarks.targets import verdicts

FOLDER = Path(__file__).parent
MODELS = ("gpt2-small", "6x384")
BUDGETS = {  # seconds for the rounds of a race; a full run takes about half an hour
    ("orthogonalizing", "gpt2-small"): 200.0,
    ("orthogonalizing", "6x384"): 120.0,
}
BUDGET = {"gpt2-small": 25.0, "6x384": 8.0, "tiny": 0.5}
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_races(chosen: argparse.Namespace, models: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """Every race of the models, as data; each in a process of its own, whose memory nobody else has used."""
    found = []
    for model in models:
        for race in races(model, chosen.methods, device_type=device.type, slow=chosen.slow):
            options = ["--rounds", str(chosen.rounds)] if chosen.rounds else []
            options += ["--slow"] if chosen.slow else []
            options += ["--device", chosen.device, "--model", model, "--race", race.name]
            found += in_new_process([*options, "--methods", *chosen.methods], {})
    return found


def run_here(name: str, chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One race in this process."""
    with iterating_in(iteration_dtype(device)):
        field = races(chosen.model, chosen.methods, device_type=device.type, slow=chosen.slow)
        race = next(race for race in field if race.name == name)
        log(f"{race.name}, {chosen.model}")
        budget = BUDGETS.get((race.name, chosen.model), BUDGET[chosen.model])
        result = run_race(race, chosen.model, device, budget=budget, rounds=chosen.rounds, log=log)
        return race_rows(result, cuda=device.type == "cuda")


def in_new_process(options: Sequence[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """The races that another process runs with these options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "races.json"
        command = [sys.executable, "-m", "benchmarks.optimizers", *options, "--no-cold", "--quiet", "--json", str(path)]
        subprocess.run(command, check=True, env={**os.environ, **environment})
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["races"]
        return found


def run_cold(models: Sequence[str], methods: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """Cold compilations, where classes have such a backend.

    On the largest of the models; those of NAMO, NAMO-D and NorMuon on the smallest, as their steps take long on a CPU.
    """
    found = []
    for method in methods:
        if "compile" in backends(method):
            long = method in ORTHOGONALIZING and method != "Muon" and device.type == "cpu"
            model = models[-1] if long else models[0]
            log(f"compiling {method} for {model} in a new process")
            measured = measure_cold(method, model, device.type, "compile")
            found.append({"method": method, "model": model, "backend": "compile", **measured})
    return found


def run_huge_pages(rounds: int | None) -> list[dict[str, Any]]:
    """The elementwise races again in processes whose large allocations use huge pages."""
    options = ["--model", "gpt2-small", "--methods", "AdamW", "SGD", *(["--rounds", str(rounds)] if rounds else [])]
    return in_new_process(options, {HUGE_PAGES: "1"})


def measure(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All that was asked for, as the JSON file has it: what is known after the races, after cold starts, at the end."""
    device = torch.device(chosen.device)
    models = MODELS if chosen.model == "both" else (chosen.model,)
    dtype = str(iteration_dtype(device) or torch.bfloat16).removeprefix("torch.")
    found: dict[str, Any] = {**limits(device), "iteration_dtype": dtype}
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "command": "python -m benchmarks.optimizers " + " ".join(chosen.given),
        "machine": describe(device),
        "limits": found,
        "missing": [package for package in PACKAGES if not installed(package)],
        "races": run_races(chosen, models, device),
        "cold": [],
        "targets": [],
        "huge_pages": [],
    }
    data["targets"] = judged(data, device)
    yield data
    if not chosen.no_cold:
        data["cold"] = run_cold(models, chosen.methods, device)
        data["targets"] = judged(data, device)
        yield data
    elementwise = "gpt2-small" in models and {"AdamW", "SGD"} & set(chosen.methods)
    if chosen.write and device.type == "cpu" and elementwise:
        data["huge_pages"] = run_huge_pages(chosen.rounds)
        yield data


def judged(data: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """The targets and what was found."""
    rate = data["limits"]["gemm_flops_per_second"]
    return [each.as_data() for each in verdicts(data["races"], data["cold"], device.type, rate)]


def profile_method(method: str, model: str, device: torch.device, backend: str) -> str:
    """Where the time of a generated class's step goes."""
    with iterating_in(iteration_dtype(device)):
        race = next(race for race in races(model, [method], device_type=device.type))
        wanted = f"generated {method} {backend}".strip() if backend else reference(method)
        contestant = next((c for c in race.contestants if c.name == wanted), None)
        if contestant is None:
            names = ", ".join(c.name for c in race.contestants)
            raise SystemExit(f"there is no {wanted!r} on {model}, but {names}")
        step, _ = warmed(contestant, race, model, device)
        return f"{wanted}, {model}\n{operator_times(step, device)}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=(*MODELS, "tiny", "both"), default="both")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--rounds", type=int, help="counted steps of each contestant, instead of a time to fill")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--slow", action="store_true", help="also who takes minutes to compile")
    parser.add_argument("--no-cold", action="store_true", help="no compilation from empty caches")
    parser.add_argument(
        "--write", nargs="?", const="RESULTS", metavar="NAME", help="write benchmarks/NAME.md and .json"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--race", help="only this one, in this process, into the file of --json")
    parser.add_argument("--quiet", action="store_true", help="print no tables")
    parser.add_argument("--profile", choices=METHODS, help="only where the time of this class's step goes")
    parser.add_argument("--backend", default="", help="of the class to profile")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    chosen.given = given
    return chosen


def write(data: dict[str, Any], name: str) -> None:
    """benchmarks/NAME.md and NAME.json."""
    (FOLDER / f"{name}.md").write_text(document(data), encoding="utf-8")
    (FOLDER / f"{name}.json").write_text(json.dumps(rounded(data), indent=1) + "\n", encoding="utf-8")


def rounded(data: Any) -> Any:
    """The same with six significant digits, which is more than was measured."""
    if isinstance(data, float):
        return float(f"{data:.6g}")
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list | tuple) else data


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse_arguments(arguments)
    if chosen.profile:
        model = MODELS[0] if chosen.model == "both" else chosen.model
        print(profile_method(chosen.profile, model, torch.device(chosen.device), chosen.backend))
        return
    if chosen.race:
        found = run_here(chosen.race, chosen, torch.device(chosen.device))
        chosen.json.write_text(json.dumps({"races": [found]}), encoding="utf-8")
        return
    for data in measure(chosen):
        if chosen.write:
            write(data, chosen.write)
    if not chosen.quiet:
        print(document(data))
    missed = [v for v in data["targets"] if not v["met"]]
    log(f"{len(missed)} of {len(data['targets'])} targets missed")
    for found in missed:
        log(f"  {found['what']}, {found['model']}: {number(found['found'])} where {found['target']:g} is asked")
    if chosen.json:
        chosen.json.write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    main()
