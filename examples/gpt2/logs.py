"""The log of a training run: written line by line as the run goes on, cut where it resumes, and read back.

A run owns a folder with ``config.json`` (what ``write_config`` makes of its configuration) and ``log.jsonl``, one JSON
object per line, each with a ``kind``: ``run`` (first), ``step``, ``validation``, ``telemetry``, ``communication``,
``resumed``, and ``result`` (last; missing while the run is not finished). Numbers that are not finite are null in the
file and NaN here. In: records. Out: files, and a ``Run`` from them. Nothing is trained, judged or shown here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from examples.files import make_folder, write_whole
from examples.gpt2.config import ConfigError, RunConfig, read_config, write_config

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
TAIL = 65_536
"""Bytes at the end of a log among which there is a step, whatever else was written after it."""


class LogError(Exception):
    """A file of a run that is missing or not what was written; the message is one sentence that names it."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known before the first step; ``unit`` is what a token is: ``byte``, ``character`` or ``token``."""

    name: str
    config: RunConfig
    spec: str | None  # the text of the .opt file that the optimizer was compiled from
    parameters: int
    tokens_per_step: int
    unit: str
    corpus: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: the loss (nats per token) and gradient norm before it, and the seconds that its two halves took."""

    step: int
    loss: float
    lr: float
    gradient_norm: float
    forward_backward_s: float
    optimizer_s: float
    elapsed_s: float  # since the start of the run, this step included

    @property
    def total_s(self) -> float:
        """Seconds of the whole step."""
        return self.forward_backward_s + self.optimizer_s


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """Mean loss (nats per token) over the fixed validation batches after ``step`` steps and ``elapsed_s`` seconds."""

    step: int
    loss: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TelemetryRecord:
    """What the update of each layer looked like at ``step``: measure by name, by the name of the parameter."""

    step: int
    layers: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class CommunicationRecord:
    """What the optimizer of a sharded model sent at ``step``: calls by collective, and bytes, a mean over processes."""

    step: int
    calls: Mapping[str, int]
    bytes: float


@dataclass(frozen=True, slots=True)
class ResumedRecord:
    """The run was continued from its checkpoint of ``step``; later lines come from another process."""

    step: int


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """What a finished run amounts to; a run that diverged has no final loss (NaN)."""

    final_validation_loss: float
    step_s: float
    optimizer_share: float
    tokens_per_s: float
    training_s: float
    optimizer_state_bytes: int
    diverged: bool


Record = (
    RunRecord | StepRecord | ValidationRecord | TelemetryRecord | CommunicationRecord | ResumedRecord | ResultRecord
)
Kind = TypeVar("Kind", bound=Record)

KINDS: dict[str, type[Record]] = {
    "run": RunRecord,
    "step": StepRecord,
    "validation": ValidationRecord,
    "telemetry": TelemetryRecord,
    "communication": CommunicationRecord,
    "resumed": ResumedRecord,
    "result": ResultRecord,
}


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that the log in ``folder`` holds; ``result`` is None while the run is not finished."""

    folder: Path
    header: RunRecord
    steps: tuple[StepRecord, ...] = ()
    validations: tuple[ValidationRecord, ...] = ()
    telemetry: tuple[TelemetryRecord, ...] = ()
    communication: tuple[CommunicationRecord, ...] = ()
    resumed: tuple[int, ...] = ()
    result: ResultRecord | None = None


class RunLog:
    """Appends the records of one run to its log, a line at a time, each handed to the system before the next step.

    Open it with ``create`` or ``resume`` and close it, or use it as a context manager. Its ``on_`` methods are those
    of an observer of the training loop.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    @classmethod
    def create(cls, folder: Path, header: RunRecord) -> RunLog:
        """Start the log of a new run in ``folder``, over whatever log was there."""
        make_folder(folder)
        write_config_file(folder, header.config)
        (folder / LOG_FILE).unlink(missing_ok=True)
        log = cls(folder / LOG_FILE)
        log._write("run", header)
        return log

    @classmethod
    def resume(cls, folder: Path, step: int) -> RunLog:
        """Go on with the log in ``folder`` after ``step``: what it holds of later steps, or of an end, is cut off."""
        path = folder / LOG_FILE
        os.truncate(path, _length_until(path, step))
        log = cls(path)
        log._write("resumed", ResumedRecord(step))
        return log

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_step(self, record: StepRecord) -> None:
        """Write one step."""
        self._write("step", record)

    def on_validation(self, record: ValidationRecord) -> None:
        """Write one validation."""
        self._write("validation", record)

    def on_telemetry(self, record: TelemetryRecord) -> None:
        """Write what was measured of the update at one step."""
        self._write("telemetry", record)

    def on_communication(self, record: CommunicationRecord) -> None:
        """Write what the optimizer sent at one step."""
        self._write("communication", record)

    def write_result(self, result: ResultRecord) -> None:
        """Write the line that makes the run a finished one."""
        self._write("result", result)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, record: Record) -> None:
        content = {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
        self._file.write(json.dumps(_json_ready({"kind": kind, **content}), allow_nan=False) + "\n")
        self._file.flush()


def summarize(
    steps: Sequence[StepRecord],
    validations: Sequence[ValidationRecord],
    *,
    tokens_per_step: int,
    optimizer_state_bytes: int,
) -> ResultRecord:
    """The result of a run with these records; medians, since others use the machine too and first steps are slow."""
    diverged = not (math.isfinite(steps[-1].loss) and math.isfinite(validations[-1].loss))
    step_s = statistics.median(record.total_s for record in steps)
    return ResultRecord(
        final_validation_loss=math.nan if diverged else validations[-1].loss,
        step_s=step_s,
        optimizer_share=statistics.median(record.optimizer_s / record.total_s for record in steps),
        tokens_per_s=tokens_per_step / step_s,
        training_s=steps[-1].elapsed_s,
        optimizer_state_bytes=optimizer_state_bytes,
        diverged=diverged,
    )


def read_run(folder: Path) -> Run:
    """The run whose log is in ``folder``.

    A last line without its end, as a killed process leaves it, does not count. Raises ``LogError`` for a log that is
    missing or damaged in any other way.
    """
    path = folder / LOG_FILE
    records = [_parse(line, f"{path}, line {number}") for number, line in enumerate(_lines(path), start=1)]
    if not records or not isinstance(records[0], RunRecord):
        raise LogError(f"{path}: expected the settings of a run (kind run) in the first line")
    steps, result = _all_of(StepRecord, records), records[-1]
    if not isinstance(result, ResultRecord):
        result = None
    _require_steps(steps, result, records[0].config.loop.steps, path)
    return Run(
        folder=folder,
        header=records[0],
        steps=steps,
        validations=_all_of(ValidationRecord, records),
        telemetry=_all_of(TelemetryRecord, records),
        communication=_all_of(CommunicationRecord, records),
        resumed=tuple(record.step for record in _all_of(ResumedRecord, records)),
        result=result,
    )


def is_done(folder: Path) -> bool:
    """Whether the run in ``folder`` has written its result; raises ``LogError`` for one that its steps do not bear."""
    path = folder / LOG_FILE
    return path.exists() and bool(_lines(path)) and read_run(folder).result is not None


def read_last_step(folder: Path) -> StepRecord | None:
    """The newest step of a run that is going on, from the end of its log; None before its first."""
    path = folder / LOG_FILE
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().split(b"\n")[:-1]
    newest = next((line for line in reversed(lines) if line.startswith(b'{"kind": "step"')), None)
    record = _parse(newest, f"{path}, at its end") if newest else None
    return record if isinstance(record, StepRecord) else None


def write_config_file(folder: Path, config: RunConfig) -> None:
    """Write ``config`` to ``folder`` so that whoever reads the file finds all of it or the one before."""
    write_whole(folder / CONFIG_FILE, json.dumps(write_config(config), indent=2, allow_nan=False) + "\n")


def read_config_file(path: Path) -> RunConfig:
    """The configuration in the file at ``path``; raises ``LogError`` where there is none."""
    try:
        return read_config(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LogError(f"{path}: expected the configuration of a run, but {error.strerror}") from error
    except (ValueError, ConfigError) as error:
        raise LogError(f"{path}: expected the configuration of a run; {error}") from error


def _require_steps(steps: Sequence[StepRecord], result: ResultRecord | None, planned: int, path: Path) -> None:
    """A run makes each step once and in order; a result is that of all of them, or of a loss that is not finite."""
    for expected, record in enumerate(steps, start=1):
        if record.step != expected:
            raise LogError(f"{path}: expected step {expected}, found step {record.step}, as if two processes wrote it")
    if result and len(steps) != planned and not result.diverged:
        raise LogError(f"{path}: expected the {planned} steps that its result is of, found {len(steps)}")


def _lines(path: Path) -> list[bytes]:
    """The lines of a log that were written to their end."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: expected the log of a run, but {error.strerror}") from error
    return content.split(b"\n")[:-1]


def _length_until(path: Path, step: int) -> int:
    """Bytes of the log up to the first line that belongs after ``step``; lines are in the order of their steps."""
    length = 0
    for number, line in enumerate(_lines(path), start=1):
        record = _parse(line, f"{path}, line {number}")
        if isinstance(record, ResultRecord) or getattr(record, "step", 0) > step:
            break
        length += len(line) + 1
    if not length:
        raise LogError(f"{path}: expected the settings of a run (kind run) in the first line")
    return length


def _parse(line: bytes, place: str) -> Record:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise LogError(f"{place}: expected a JSON object, found {line[:60]!r}") from error
    kind = content.pop("kind", None) if isinstance(content, dict) else None
    if kind not in KINDS:
        raise LogError(f"{place}: expected an object with one of the kinds {', '.join(KINDS)}, found {line[:60]!r}")
    return _build(KINDS[kind], content, f"{place} ({kind})")


def _build(kind: type[Kind], content: dict[str, Any], place: str) -> Kind:
    types = {each.name: str(each.type) for each in dataclasses.fields(kind)}
    if set(content) != set(types):
        found = ", ".join(sorted(set(content) ^ set(types)))
        raise LogError(f"{place}: expected exactly the fields {', '.join(types)}; missing or unknown: {found}")
    return kind(**{name: _value(content[name], types[name], f"{place}: {name}") for name in types})


def _value(value: Any, kind: str, place: str) -> Any:
    """``value`` as the field of type ``kind`` holds it: null is NaN where a number with a fraction is meant."""
    if kind == "float" and value is None:
        return math.nan
    if kind == "RunConfig":
        return _config(value, place)
    accepted: Any = {"int": int, "float": (int, float), "bool": bool, "str": str, "str | None": (str, type(None))}
    if not isinstance(value, accepted.get(kind, dict)) or (isinstance(value, bool) and kind != "bool"):
        raise LogError(f"{place}: expected {kind}, found {value!r}")
    if kind == "float":
        return float(value)
    return _numbers(value) if kind.startswith("Mapping[str, Mapping") else value


def _config(content: Any, place: str) -> RunConfig:
    try:
        return read_config(content)
    except (ConfigError, TypeError, ValueError) as error:
        raise LogError(f"{place}: {error}") from error


def _numbers(value: Any) -> Any:
    """``value`` with NaN again for every null in it; a null that stands alone is one."""
    if isinstance(value, dict):
        return {name: math.nan if item is None else _numbers(item) for name, item in value.items()}
    return value


def _all_of(kind: type[Kind], records: Sequence[Record]) -> tuple[Kind, ...]:
    return tuple(record for record in records if isinstance(record, kind))


def _json_ready(value: Any) -> Any:
    if isinstance(value, RunConfig):
        return write_config(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    return value
