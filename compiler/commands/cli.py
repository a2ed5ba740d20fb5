"""The ``optforge`` command: its commands are the modules of ``optforge.compiler.commands``.

Exit codes: 0 fine, 1 a spec (or a generated file) is wrong or a file cannot be read or written, 2 the command line
is wrong, 70 the compiler itself is. Messages go to stderr, in colour only on a terminal.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence

from optforge.compiler.commands import build, check, compare, doc, explain, fmt, fuzz, new, ops, verify
from optforge.compiler.commands.console import (
    CANNOT_GO_ON,
    COMMAND_IS_WRONG,
    COMPILER_IS_WRONG,
    SPEC_IS_WRONG,
    CommandProblem,
    abandon_output,
    describe_failure,
    finish_output,
    report,
    say,
)
from optforge.dsl.diagnostics import SpecError

COMMANDS = (check, build, fmt, verify, compare, fuzz, explain, doc, ops, new)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    parser = command_parser()
    options = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    collects = gc.isenabled()
    gc.disable()  # a command is over before garbage matters, and looking for it takes a tenth of a check
    try:
        code = run(options)
        finish_output()
        return code
    except CommandProblem as problem:
        say(f"optforge: {problem}")
        return COMMAND_IS_WRONG
    except SpecError as error:
        report(error.diagnostics)
        return SPEC_IS_WRONG
    except BrokenPipeError:
        abandon_output()  # whoever read it has gone, and wants to hear no more
        return CANNOT_GO_ON
    except OSError as problem:
        abandon_output()
        say(f"optforge: {describe_failure(problem)}")
        return CANNOT_GO_ON
    except MemoryError as problem:
        say(f"optforge: there is not enough memory{': ' * bool(str(problem))}{problem}")
        return CANNOT_GO_ON
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


class Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"optforge {version('optforge')}")
        parser.exit()


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optforge",
        description="Optimizers as short specs, compiled to PyTorch.",
        epilog="Try: optforge new Mine && optforge check mine.opt && optforge build mine.opt. "
        "The language has a manual in docs/language: a tutorial, recipes, and a reference.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
