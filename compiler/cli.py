"""The ``optforge`` command: its commands are the modules of ``optforge.compiler.commands``.

Exit codes: 0 fine, 1 a spec (or a generated file) is wrong, 2 the command line is wrong, 70 the
compiler itself is. Messages go to stderr, in colour only on a terminal.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence

from optforge.compiler.commands import build, check, compare, explain, fmt, fuzz, new, ops, verify
from optforge.compiler.commands.console import (
    COMMAND_IS_WRONG,
    COMPILER_IS_WRONG,
    FINE,
    SPEC_IS_WRONG,
    CommandProblem,
    report,
    say,
)
from optforge.dsl.diagnostics import SpecError

COMMANDS = (check, build, fmt, verify, compare, fuzz, explain, ops, new)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    parser = command_parser()
    options = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    collects = gc.isenabled()
    gc.disable()  # a command is over before garbage matters, and looking for it takes a tenth of a check
    try:
        return run(options)
    except CommandProblem as problem:
        say(f"optforge: {problem}")
        return COMMAND_IS_WRONG
    except SpecError as error:
        report(error.diagnostics)
        return SPEC_IS_WRONG
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 130
    except Exception as bug:
        if os.environ.get("OPTFORGE_DEBUG"):
            raise
        say(f"optforge: internal error ({type(bug).__name__}: {bug}). This is a mistake of the compiler, not of the")
        say("spec. Please report it with the spec; OPTFORGE_DEBUG=1 shows where it happened.")
        return COMPILER_IS_WRONG
    finally:
        if collects:
            gc.enable()


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optforge",
        description="Optimizers as short specs, compiled to PyTorch.",
        epilog="Try: optforge new Mine && optforge check mine.opt && optforge build mine.opt",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
