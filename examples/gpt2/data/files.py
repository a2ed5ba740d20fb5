"""Files opened for reading in place, and files that appear whole or not at all.

In: paths. Out: arrays backed by memory maps, and folders or files written under another name and renamed. What cannot
be opened is a ``TextError``. A mapped file must not be cut short while a run reads it: the system ends the process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError


def require_file(path: Path, expected: str) -> int:
    """The size of the regular, non-empty file ``path``; anything else does not match ``expected``."""
    try:
        status = path.stat()
    except OSError as error:
        raise TextError(f"{path}: expected {expected}: {error.strerror or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise TextError(f"{path}: expected {expected}, found a folder")
    if not stat.S_ISREG(status.st_mode):
        raise TextError(f"{path}: expected {expected}, found neither a file nor a folder")
    if not status.st_size:
        raise TextError(f"{path}: expected {expected}, found an empty file")
    return status.st_size


def map_file(path: Path, dtype: str, expected: str, *, offset: int = 0) -> NDArray[Any]:
    """The items of ``path`` from byte ``offset`` on, read from the disk only where they are looked at."""
    size = require_file(path, expected) - offset
    width = np.dtype(dtype).itemsize
    if size < 0 or size % width:
        raise TextError(f"{path}: expected {expected}, found {size + offset} bytes, not a whole number of tokens")
    try:
        # A plain array over the map: slices of numpy's memmap class cost several times as much.
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(size // width,)))
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: expected {expected}: {getattr(error, 'strerror', None) or error}") from error


@contextlib.contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends; of several processes the first one stays."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise TextError(f"{folder.parent}: expected a folder to keep tokens in: {error.strerror or error}") from error
    try:
        yield draft
        for path in draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            _rename(draft, folder)
    except OSError as error:
        raise TextError(f"{folder}: expected room to keep tokens in: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        raise FileExistsError(folder) from None  # a full folder there is ENOTEMPTY on some systems
