"""Runs commands once for each file or folder that they open, make, list, rename or remove, and lets that one fail.

A program of its own, since what listens to Python's audit events stays until the interpreter ends. It prints, for
every run, the command, what failed, the exit code and what was said.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from optforge.compiler.commands.cli import main

EVENTS = ("open", "os.mkdir", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.chmod")
SPEC = "optimizer Plain extends Base:\n    hyper lr=1\n    for tensor:\n        weight <- super - lr * grad\n"
BASE = "optimizer Base:\n    for tensor:\n        weight <- weight - grad\n"
COMMANDS = (
    "check plain.opt",
    "check --json .",
    "fmt .",
    "build plain.opt --out made",
    "build plain.opt --out made --check",
    "build . --standalone --out made",
    "build plain.opt --dump-after fold",
    "verify --claims-only plain.opt",
    "new Fresh",
    "explain E012",
)
WITH_TORCH = (
    "verify plain.opt --examples 1",
    "compare plain.opt plain.opt --shape 2x2 --steps 1",
    "fuzz plain.opt --against torch.optim:SGD --examples 1",
)


class Failure:
    """Lets the ``last``-th use of something inside the folder fail; ``path`` is what failed."""

    def __init__(self) -> None:
        self.folder, self.left, self.path, self.is_active = "", 0, "", False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_active or event not in EVENTS or not isinstance(arguments[0], str | Path):
            return
        path = os.path.abspath(arguments[0])
        if path.startswith(self.folder):
            self.left -= 1
            if self.left == 0:
                self.path = path
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def run(line: str, number: int, failure: Failure) -> dict[str, object]:
    """One command in a fresh state, in which the ``number``-th use fails."""
    for path in sorted(Path(failure.folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path("plain.opt").write_text(SPEC)
    Path("base.opt").write_text(BASE)
    failure.left, failure.path, failure.is_active = number, "", True
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(line.split())
        finally:
            failure.is_active = False
    return {"line": line, "path": failure.path, "code": code, "said": said.getvalue()}


def run_all(commands: Sequence[str], most: int) -> list[dict[str, object]]:
    failure = Failure()
    failure.folder = os.getcwd()
    sys.addaudithook(failure)
    found = []
    for line in commands:
        for number in range(1, most + 1):
            found.append(run(line, number, failure))
            if not found[-1]["path"]:
                break
    return found


if __name__ == "__main__":
    print(json.dumps(run_all(WITH_TORCH if "torch" in sys.argv else COMMANDS, most=10)))
