"""Text files that appear whole or not at all.

In: a path and its new text. A file that is there stays as it is, to the byte, until the new one is safely on the
disk beside it: a full disk, a kill or a power cut leaves the old text or the new one, never the beginning of one. What
cannot be written is an OSError that names the path.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Give the file ``path`` the content ``text`` (UTF-8, line breaks as they are).

    Missing folders are made, a link is followed, and the permissions of a file that is there are kept.

    Raises:
        OSError: the folder or the file cannot be written; whatever was at ``path`` is still there.
    """
    target = Path(os.path.realpath(path))  # which leaves links that lead in a circle to the system to refuse
    target.parent.mkdir(parents=True, exist_ok=True)
    draft: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
        draft = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(permissions(target))
        draft.replace(target)
    except BaseException as error:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()
        if isinstance(error, OSError):  # a failing write itself names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def permissions(path: Path) -> int:
    """The permissions of the file ``path``; of a new one, what the process gives to the files it makes."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
