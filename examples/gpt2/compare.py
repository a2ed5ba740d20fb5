"""Run several optimizers × learning rates × seeds, in sequence or in parallel processes, and judge them.

In: a ``Grid`` and a folder. Out: a folder per run with its configuration, log and the output of its process, and the
verdict on all of them. Stopped at any moment, by Ctrl-C or a kill, it goes on where it was when it is called again:
finished runs are kept, begun ones are left to the trainer to resume. Ctrl-C and SIGTERM end the children first. A run
that fails is reported, the others go on. No training happens in this process. Needs a Unix system, for groups of
processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from examples.files import make_folder
from examples.gpt2.config import OptimizerConfig, RunConfig, describe_changes
from examples.gpt2.folders import OUTPUT_FILE, require_free
from examples.gpt2.logs import (
    CONFIG_FILE,
    LogError,
    is_done,
    read_config_file,
    read_last_step,
    read_run,
    write_config_file,
)
from examples.gpt2.verdict.entries import short_name
from examples.gpt2.verdict.judge import Verdict
from examples.gpt2.verdict.report import Comparison, write_comparison, write_verdict

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
POLL_S = 0.1
PATIENCE_S = 10.0
"""How long an interrupted child may take to end by itself."""

Trainer = Callable[[Path], Sequence[str]]
"""Makes the command that trains, or resumes, the run whose ``config.json`` is in a folder and logs there."""


class GridError(Exception):
    """A grid that cannot be run; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations of ``optimizers``, learning rates and ``seeds``; the rest of each run is that of ``base``.

    The choice of learning rates is the same for all: either ``factors`` of each optimizer's own ``lr`` (its
    ``rest_lr`` is multiplied as well, so that a method has one knob), or, where ``rates`` is given, those values.
    """

    base: RunConfig
    optimizers: tuple[OptimizerConfig, ...]
    factors: tuple[float, ...] = FACTORS
    rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a grid: its configuration, and the name of its folder."""

    name: str
    config: RunConfig

    def __str__(self) -> str:
        optimizer = self.config.optimizer
        return f"{short_name(optimizer.name)} at {optimizer.lr:g}, seed {self.config.loop.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended: ``done``, or ``failed`` with the reason in ``detail``."""

    cell: Cell
    done: bool
    detail: str


@dataclass(slots=True)
class Child:
    """A process that trains one cell."""

    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    started: float


def train_command(folder: Path) -> list[str]:
    """The command line that trains the run in ``folder`` with this package."""
    return [sys.executable, "-m", "examples.gpt2", "train", "--config", str(folder / CONFIG_FILE), "--out", str(folder)]


def compare(
    grid: Grid,
    folder: Path,
    *,
    baseline: str = "AdamW",
    command: str | None = None,
    jobs: int = 1,
    threads: int | None = None,
    trainer: Trainer = train_command,
) -> tuple[Verdict, list[Outcome]]:
    """Run what is missing of ``grid`` in ``folder``, ``jobs`` runs at a time, and write the verdict there.

    ``command`` is what a reader of the verdict would type to repeat it; ``threads`` are divided among the jobs.
    """
    cells = prepare(grid, folder)
    write_comparison(folder, Comparison(command, jobs))
    outcomes = run_cells(cells, folder, jobs=jobs, threads=threads, trainer=trainer)
    return write_verdict(folder, baseline=baseline), outcomes


def plan_cells(grid: Grid) -> list[Cell]:
    """The runs of ``grid``, seed by seed, so that a comparison that is stopped early has tried every learning rate."""
    _require_proper(grid)
    slugs = _slugs(grid.optimizers)
    scales: Sequence[float] = grid.rates or grid.factors
    cells = []
    for seed, (slug, optimizer), scale in itertools.product(
        grid.seeds, zip(slugs, grid.optimizers, strict=True), scales
    ):
        tuned = dataclasses.replace(optimizer, lr=scale) if grid.rates else _scaled(optimizer, scale)
        loop = dataclasses.replace(grid.base.loop, seed=seed)
        config = dataclasses.replace(grid.base, optimizer=tuned, loop=loop)
        cells.append(Cell(f"{slug}-lr{tuned.lr:g}-seed{seed}", config))
    return cells


def prepare(grid: Grid, folder: Path) -> list[Cell]:
    """Make the folder of every run of ``grid``; one that holds another run already is a ``GridError``."""
    cells = plan_cells(grid)
    for cell in cells:
        _require_same(folder / cell.name, cell.config)
    for cell in cells:
        home = folder / cell.name
        make_folder(home)
        if not (home / CONFIG_FILE).exists():
            write_config_file(home, cell.config)
    return cells


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    trainer: Trainer = train_command,
) -> list[Outcome]:
    """Train every one of ``cells`` that is not done, ``jobs`` at a time; an interruption ends the children first."""
    waiting = [cell for cell in cells if not is_done(folder / cell.name)]
    environment = _environment(max(1, (threads or os.cpu_count() or 1) // jobs))
    running: list[Child] = []
    outcomes: list[Outcome] = []
    with _progress(len(cells), len(cells) - len(waiting)) as bar, _terminated_like_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(start(waiting.pop(0), folder, trainer, environment))
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    outcomes.append(conclude(child))
                    bar.update()
                    bar.write(outcomes[-1].detail, file=sys.stderr)
                if not bar.disable:
                    bar.set_postfix_str(", ".join(describe_progress(child) for child in running))
                time.sleep(POLL_S)
        finally:
            stop(running)
    return outcomes


def start(cell: Cell, folder: Path, trainer: Trainer, environment: dict[str, str]) -> Child:
    """Start the process of ``cell``; raises ``FolderError`` where an earlier one is at it still."""
    home = folder / cell.name
    require_free(home)
    with (home / OUTPUT_FILE).open("wb") as output:
        process = subprocess.Popen(
            trainer(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which then ends its children in order
        )
    return Child(cell, home, process, time.monotonic())


def describe_progress(child: Child) -> str:
    """How far a run has come: ``NAMO 120/250 2.31``."""
    name, last = short_name(child.cell.config.optimizer.name), read_last_step(child.folder)
    return f"{name} {last.step}/{child.cell.config.loop.steps} {last.loss:.2f}" if last else name


def conclude(child: Child) -> Outcome:
    """What has become of a process that ended."""
    code = child.process.returncode
    try:
        result = read_run(child.folder).result
    except LogError as error:
        result, missing = None, str(error)
    else:
        missing = "it wrote no result"
    if result:  # whatever the exit code says of it: a run that diverged is finished too
        seconds = time.monotonic() - child.started
        ending = "diverged" if result.diverged else f"validation loss {result.final_validation_loss:.4f}"
        return Outcome(child.cell, True, f"{child.cell}: {ending}, {seconds:,.0f} s")
    reason = f"exit code {code}: {_last_line(child.folder / OUTPUT_FILE)}" if code else missing
    return Outcome(child.cell, False, f"{child.cell}: failed ({reason}); its output is in {child.folder / OUTPUT_FILE}")


def stop(children: Sequence[Child]) -> None:
    """End ``children``: as Ctrl-C would at first, so that they may save their state, and by force after a while."""
    for child in children:
        _signal(child, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE_S
    try:
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            _signal(child, signal.SIGKILL)
            child.process.wait()


def _require_proper(grid: Grid) -> None:
    for name, values in (("optimizers", grid.optimizers), ("seeds", grid.seeds), ("rates", grid.rates or grid.factors)):
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise GridError(f"a comparison needs at least one of its {name} and none twice, got {values}")
    unknown = [optimizer.name for optimizer in grid.optimizers if optimizer.lr is None]
    if unknown and not grid.rates:
        raise GridError(f"{', '.join(unknown)}: expected a learning rate for the factors to multiply, found none")


def _require_same(home: Path, wanted: RunConfig) -> None:
    if (home / CONFIG_FILE).exists():
        changes = describe_changes(read_config_file(home / CONFIG_FILE), wanted)
        if changes:
            raise GridError(f"{home} holds a run with other settings: {'; '.join(changes)}; choose another folder")


def _scaled(optimizer: OptimizerConfig, factor: float) -> OptimizerConfig:
    assert optimizer.lr is not None
    rest_lr = None if optimizer.rest_lr is None else _rounded(factor * optimizer.rest_lr)
    return dataclasses.replace(optimizer, lr=_rounded(factor * optimizer.lr), rest_lr=rest_lr)


def _rounded(rate: float) -> float:
    """``rate`` to six digits, so that three times 0.1 is 0.3 in every file."""
    return float(f"{rate:.6g}")


def _slugs(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    """Different names for folders, one for each of ``optimizers``."""
    slugs: list[str] = []
    for optimizer in optimizers:
        plain = "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in short_name(optimizer.name))
        taken = sum(slug.split("+")[0] == plain for slug in slugs)
        slugs.append(f"{plain}+{taken + 1}" if taken else plain)
    return slugs


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does; only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[tqdm]:
    """A bar over the runs on a terminal; elsewhere only the lines that are written above it."""
    with tqdm(
        total=total, initial=done, desc="runs", unit=" run", disable=not sys.stderr.isatty(), dynamic_ncols=True
    ) as bar:
        if done:
            bar.write(f"{done} of {total} runs are done already", file=sys.stderr)
        yield bar


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
