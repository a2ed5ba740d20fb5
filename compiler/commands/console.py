"""What all commands share: exit codes, messages on stderr, and the spec files that the command line names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from optforge.dsl.diagnostics import Diagnostic, render_json, render_text

if TYPE_CHECKING:
    from optforge.compiler.check import Unit

FINE, SPEC_IS_WRONG, COMMAND_IS_WRONG, COMPILER_IS_WRONG = 0, 1, 2, 70


class CommandProblem(Exception):
    """The command line asks for something that cannot be."""


def say(text: str) -> None:
    print(text, file=sys.stderr)


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


def spec_paths(given: Sequence[Path]) -> list[Path]:
    """The files themselves, and the specs of the folders."""
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(path.glob("*.opt"))
            if not inside:
                raise CommandProblem(f"there are no .opt files in {path}")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise CommandProblem(f"there is no file {path}")
    return list(dict.fromkeys(paths))


def checked_units(files: Sequence[Path], as_json: bool = False) -> list[Unit]:
    """Check every file and show all that is wrong, with all of them, in one go."""
    from optforge.compiler.check import check_file
    from optforge.compiler.workspace import Workspace

    workspace = Workspace()
    units = [check_file(path, workspace) for path in spec_paths(files)]
    report((diagnostic for unit in units for diagnostic in unit.result.diagnostics), as_json)
    return units


def require_declarations(units: Sequence[Unit]) -> None:
    """Refuse files that have nothing but functions, where something is to be made of what they define."""
    from optforge.compiler.check import FUNCTIONS_ONLY

    if not any(unit.result.require().declarations for unit in units):
        each = "" if len(units) == 1 else "each "
        raise CommandProblem(f"{', '.join(str(unit.path) for unit in units)} {each}{FUNCTIONS_ONLY}")
