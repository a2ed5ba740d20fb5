"""What all commands share: exit codes, messages on stderr, and the spec files that the command line names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from optforge.dsl.diagnostics import Diagnostic, render_json, render_text

if TYPE_CHECKING:
    from optforge.compiler.driver import Snapshot

FINE, SPEC_IS_WRONG, CANNOT_GO_ON, COMMAND_IS_WRONG, COMPILER_IS_WRONG = 0, 1, 1, 2, 70


class CommandProblem(Exception):
    """The command line asks for something that cannot be."""


def say(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody is there to hear it
        print(text, file=sys.stderr)


def finish_output() -> None:
    """Write out what is waiting, while what goes wrong can still be said."""
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon_output() -> None:
    """Send what is still waiting nowhere, so that the interpreter does not fail over it once more when it ends."""
    with suppress(OSError, AttributeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def describe_failure(error: OSError) -> str:
    """One sentence about a file or folder that cannot be used, with its path."""
    if error.filename is None:
        return f"cannot go on: {(error.strerror or str(error)).lower()}"
    path = Path(os.fsdecode(error.filename))
    files = (each for each in (path, *path.parents) if each.exists() and not each.is_dir())
    if isinstance(error, FileExistsError | NotADirectoryError) and (file := next(files, None)):
        return f"{short(file)} is a file, where a folder is needed"
    if isinstance(error, IsADirectoryError):
        return f"{short(path)} is a folder, where a file is needed"
    return f"cannot use {short(path)}: {(error.strerror or str(error)).lower()}"


def short(path: Path) -> Path:
    """The path as it is written from the working directory, where it is inside, and where there is one."""
    with suppress(OSError, ValueError):
        return path.relative_to(Path.cwd())
    return path


def report(diagnostics: Iterable[Diagnostic], as_json: bool = False) -> None:
    """Show diagnostics: JSON on stdout for programs, text on stderr for people."""
    found = tuple(diagnostics)
    if as_json:
        print(render_json(found))
    elif found:
        colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        say(render_text(found, colour=colour).rstrip("\n"))


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help_text: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def count(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is less than 1")
    return number


def amount(text: str) -> float:
    """An argument that is a number from 0 on, and finite."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{number} is no finite number from 0 on")
    return number


def spec_paths(given: Sequence[Path]) -> list[Path]:
    """The files themselves, and the specs of the folders: pipes and folders in these are none, links to nothing are."""
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(each for each in path.glob("*.opt") if each.is_file() or not each.exists())
            if not inside:
                raise CommandProblem(f"there are no .opt files in {path}")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise CommandProblem(f"there is no file {path}")
    return list(dict.fromkeys(paths))


def check_snapshots(files: Sequence[Path], as_json: bool = False) -> list[Snapshot]:
    """Check every file and show all that is wrong, with all of them, in one go."""
    from optforge.compiler.driver import Workspace, composition_source, is_composition
    from optforge.compiler.targets.torch.reserved import RESERVED

    workspace = Workspace(RESERVED)
    compositions = [composition_source(str(text)) for text in files if is_composition(text)]
    paths = spec_paths([path for path in files if not is_composition(path)])
    snapshots = [workspace.snapshot(path) for path in paths]
    snapshots += [workspace.snapshot_of(source, Path.cwd()) for source in compositions]
    report((diagnostic for snapshot in snapshots for diagnostic in snapshot.diagnostics), as_json)
    return snapshots


def require_declarations(snapshots: Sequence[Snapshot]) -> None:
    """Refuse files that have nothing but functions, where something is to be made of what they define."""
    from optforge.compiler.driver import FUNCTIONS_ONLY

    if not any(snapshot.require().declarations for snapshot in snapshots):
        each = "" if len(snapshots) == 1 else "each "
        raise CommandProblem(f"{', '.join(str(snapshot.path) for snapshot in snapshots)} {each}{FUNCTIONS_ONLY}")
