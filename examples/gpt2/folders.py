"""The folder of a run: who may write in it, and what may be removed from it.

In: a folder. Out: a lock that one process holds at a time, and a folder emptied of a run. Only what a run writes is
ever removed; a folder that holds anything else is refused with one sentence that names it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from examples.files import make_folder, write_whole
from examples.gpt2.checkpoints import CHECKPOINTS
from examples.gpt2.logs import CONFIG_FILE, LOG_FILE, read_config_file

OUTPUT_FILE = "output.txt"
"""What the process of a run in a comparison printed."""
TENSORBOARD_FOLDER = "tensorboard"
LOCK_FILE, HOLDER_FILE = ".lock", ".holder"
REMAINS = {
    ".": (LOG_FILE, CHECKPOINTS, f"{CHECKPOINTS}.new", f"{CONFIG_FILE}.new", f"{HOLDER_FILE}.new", OUTPUT_FILE),
    TENSORBOARD_FOLDER: ("events.out.tfevents.*",),
}
"""Patterns of all that a run may have left in its folder, by folder, but for its configuration and lock."""


class FolderError(Exception):
    """A folder that a run may not use; the message is one sentence."""


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """``folder``, made if need be, is this process's alone within the block; the system lets go of it with the process.

    Raises ``FolderError``, naming the holder, where another process has it.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderError(f"{folder}: {_holder(folder)} is still training this run; end it or wait for it") from None
    with lock:
        lock.release()  # the block holds it once more
        write_whole(folder / HOLDER_FILE, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            (folder / HOLDER_FILE).unlink(missing_ok=True)


def require_free(folder: Path) -> None:
    """Raise ``FolderError`` where another process has ``folder``."""
    with holding(folder):
        pass


def require_clearable(folder: Path) -> list[Path]:
    """What a run has left in ``folder``, but for its configuration and lock.

    Raises ``FolderError`` if the folder holds anything that a run does not write.
    """
    config = folder / CONFIG_FILE
    remains = [path for place, patterns in REMAINS.items() for name in patterns for path in (folder / place).glob(name)]
    files = {*remains, config, folder / LOCK_FILE, folder / HOLDER_FILE}
    for path in sorted(folder.rglob("*")):
        is_expected = path.is_dir() if path == folder / TENSORBOARD_FOLDER else path in files and path.is_file()
        if not is_expected or path.is_symlink():
            raise FolderError(f"{folder} holds {path.relative_to(folder)}, which no run wrote: nothing was removed")
    if remains or config.exists():
        read_config_file(config)  # that of something else is an error here
    return remains


def clear(folder: Path) -> None:
    """Remove the run in ``folder``, which the caller holds, or nothing where :func:`require_clearable` raises."""
    for path in require_clearable(folder):
        path.unlink()
    if (folder / TENSORBOARD_FOLDER).is_dir():
        (folder / TENSORBOARD_FOLDER).rmdir()
    (folder / CONFIG_FILE).unlink(missing_ok=True)  # last: what is left by an interruption is a run still


def _holder(folder: Path) -> str:
    """Who holds ``folder``, in words."""
    try:
        return (folder / HOLDER_FILE).read_text(encoding="utf-8")
    except OSError:
        return "another process"
