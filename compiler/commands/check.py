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
    checked_units,
    require_declarations,
)

if TYPE_CHECKING:
    from optforge.compiler.driver import Unit


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
    units = checked_units(options.files, options.json)
    is_fine = all(unit.result.program for unit in units)
    if is_fine and options.dump_after:
        dump_units(units, options.dump_after, options.verify)
    elif is_fine and options.verify:
        verify_units(units)
    return FINE if is_fine else SPEC_IS_WRONG


def verify_units(units: Sequence[Unit]) -> None:
    """Hold every pass, and the functions that are generated, to what must be so; an internal error if it is not."""
    from optforge.compiler.driver import run_passes
    from optforge.compiler.targets.torch.lower import lower_program

    for unit in units:
        lower_program(run_passes(unit.result.require(), verify=True), unit.source.path)


def dump_units(units: Sequence[Unit], after: str, verify: bool) -> None:
    from optforge.compiler.driver import PASSES, run_passes
    from optforge.compiler.ir.printer import dump_function
    from optforge.compiler.ir.verifier import functions_of

    names = [name for name, _ in PASSES]
    if after not in names:
        raise CommandProblem(f"there is no pass `{after}`; the passes are {', '.join(names)}")
    require_declarations(units)
    for unit in units:
        program = run_passes(unit.result.require(), until=after, verify=verify)
        print("\n\n".join(dump_function(function) for function in functions_of(program)))
