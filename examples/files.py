"""Files that appear whole or not at all.

In: a path, and what shall stand in the file. A file that is there stays as it is until the new one is safely on the
disk beside it, so that whoever reads it, and whenever the process dies, finds the old content or the new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make ``folder``, and those around it, where they are not there yet; ``OSError`` is one sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        found = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        raise NotADirectoryError(f"{folder} cannot be a folder: {found} is something else") from None


def describe_problem(error: Exception) -> str:
    """The message of ``error`` as a sentence, with the file first where the system gives a number for a reason."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another path in the folder of ``path``: the file that the block writes there becomes ``path`` at its end.

    Missing folders are made. Where the block or the disk fails, what was written is removed and the error goes on.
    """
    make_folder(path.parent)
    draft = path.with_name(f"{path.name}.new")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Give the file ``path`` the content ``text`` in UTF-8."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def _sync_folder(folder: Path) -> None:
    """Force the new name itself to the disk, where the system lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
