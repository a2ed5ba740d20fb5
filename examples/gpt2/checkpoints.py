"""Checkpoints that survive whatever ends a run: written beside the old one, named when they are whole.

In: the state of a run after some step. Out: ``checkpoint-00000100.pt`` in the run's folder, of which the last two are
kept, and the state again. A file is written under another name, forced to the disk, and only then renamed, so that
the newest name always stands for a whole file, whenever the process dies. Files are read with ``weights_only``: they
hold tensors and plain data and cannot run code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from examples.files import replacing

CHECKPOINTS = "checkpoint-????????.pt"
"""The names of checkpoints, as a pattern."""

FORMAT = 1
"""Written into every file; another number is another layout."""

KEPT = 2
"""How many checkpoints of a run stay; an older one is a way back when the newest turns out to be damaged."""


class CheckpointError(Exception):
    """A checkpoint that cannot be written or used; the message is one sentence that names the file."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after ``step`` steps and ``elapsed_s`` seconds of training.

    ``config`` is what ``write_config`` makes of the run's configuration, ``corpus`` the fingerprint of its data.
    """

    step: int
    elapsed_s: float
    config: Mapping[str, Any]
    corpus: str
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` and forget all but the last ``KEPT``; raises ``CheckpointError`` and leaves the old ones."""
    path = folder / f"checkpoint-{checkpoint.step:08d}.pt"
    content = {"format": FORMAT, **{each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}}
    try:
        with replacing(path) as draft, draft.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} could not be written: {_reason(error)}; {_last_good(folder)}") from error
    for old in find_checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob(CHECKPOINTS))


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the file at ``path``; raises ``CheckpointError`` for one that is damaged or of other layout."""
    others = [other for other in find_checkpoints(path.parent) if other != path]
    way_out = f"remove it to continue from {others[-1].name}" if others else "remove it to start again"
    try:
        _require_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any part of torch's reader
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: expected a whole checkpoint ({reason}); {way_out}") from error
    names = [each.name for each in fields(Checkpoint)]
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) != {"format", *names}:
        raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT}, found something else; {way_out}")
    return Checkpoint(**{name: content[name] for name in names})


def _require_sums(path: Path) -> None:
    """Compare every part with its check sum, which torch's reader does not."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} has another check sum")


def _last_good(folder: Path) -> str:
    left = find_checkpoints(folder)
    return f"the last good checkpoint is {left[-1]}" if left else "there is no earlier checkpoint"


def _reason(error: BaseException) -> str:
    """The system's own word for what went wrong, where torch's writer wraps it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).strip().partition("\n")[0]
