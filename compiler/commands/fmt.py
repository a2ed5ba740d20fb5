"""`optforge fmt`: specs in the one standard layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optforge.compiler.commands.console import (
    FINE,
    SPEC_IS_WRONG,
    Commands,
    add_command,
    report,
    say,
    spec_paths,
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "fmt", run_fmt, "lay out specs in the one standard way", "optforge fmt specs/*.opt")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="spec files, or folders of them")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; print what would change")


def run_fmt(options: argparse.Namespace) -> int:
    from optforge.compiler.output import write_whole
    from optforge.dsl.parser import parse_source, read_source
    from optforge.dsl.printer import print_file

    code = FINE
    for path in spec_paths(options.files):
        source, problems = read_source(path)
        file, more = parse_source(source) if source else (None, ())
        if source is None or file is None:
            report((*problems, *more))
            code = SPEC_IS_WRONG
            continue
        text = print_file(file)
        if text == path.read_bytes().decode("utf-8-sig"):
            continue
        if options.diff:
            print_difference(path, source.text, text)
        elif not options.check:
            write_whole(path, text)
            say(f"formatted {path}")
        if options.check:
            say(f"{path} would be formatted")
            code = SPEC_IS_WRONG
    return code


def print_difference(path: Path, before: str, after: str) -> None:
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(True), after.splitlines(True), str(path), f"{path} (formatted)")
    sys.stdout.writelines(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
