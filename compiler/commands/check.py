"""`optforge check`: what is wrong with specs; and what the passes make of them (`--dump-after`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optforge.compiler.commands.console import (
    FINE,
    SPEC_IS_WRONG,
    CommandProblem,
    Commands,
    add_command,
    check_snapshots,
    require_declarations,
)

if TYPE_CHECKING:
    from optforge.compiler.driver import Snapshot


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "check", run_check, "say what is wrong with specs", "optforge check specs/namo.opt")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="spec files, or folders of them")
    parser.add_argument("--json", action="store_true", help="print the diagnostics as JSON, for editors")
    add_dump(parser)


def add_dump(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dump-after", metavar="PASS", help="print the program as it is after a pass, and stop there")
    parser.add_argument("--verify", action="store_true", help="check the compiler's own invariants after each pass")


def run_check(options: argparse.Namespace) -> int:
    if options.json and options.dump_after:
        raise CommandProblem("`--json` prints diagnostics and `--dump-after` a program: ask for one of them")
    snapshots = check_snapshots(options.files, options.json)
    is_fine = all(snapshot.program for snapshot in snapshots)
    if is_fine and options.dump_after:
        dump_snapshots(snapshots, options.dump_after, options.verify)
    elif is_fine and options.verify:
        verify_snapshots(snapshots)
    return FINE if is_fine else SPEC_IS_WRONG


def verify_snapshots(snapshots: Sequence[Snapshot]) -> None:
    """Hold every pass, and the functions that are generated, to what must be so; an internal error if it is not."""
    from optforge.compiler.driver import run_passes
    from optforge.compiler.targets.base import Origin
    from optforge.compiler.targets.torch.target import TORCH

    for snapshot in snapshots:
        TORCH.render(run_passes(snapshot.require(), TORCH.rewrites, verify=True), Origin.of(snapshot.source))


def dump_snapshots(snapshots: Sequence[Snapshot], after: str, verify: bool) -> None:
    from optforge.compiler.driver import passes_of, run_passes
    from optforge.compiler.ir.printer import dump_function
    from optforge.compiler.ir.verifier import functions_of
    from optforge.compiler.targets.torch.target import TORCH

    names = [name for name, _ in passes_of(TORCH.rewrites)]
    if after not in names:
        raise CommandProblem(f"there is no pass `{after}`; the passes are {', '.join(names)}")
    require_declarations(snapshots)
    for snapshot in snapshots:
        program = run_passes(snapshot.require(), TORCH.rewrites, after, verify)
        print("\n\n".join(dump_function(function) for function in functions_of(program)))
