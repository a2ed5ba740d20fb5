"""The ``optforge`` command: check, build, fmt, explain, ops, new.

Exit codes: 0 fine, 1 a spec (or a generated file) is wrong, 2 the command line is wrong, 70 the
compiler itself is. Messages go to stderr, in colour only on a terminal.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from optforge.dsl.diagnostics import Diagnostic, SpecError, render_json, render_text

if TYPE_CHECKING:
    from optforge.compiler.check import Unit

FINE, SPEC_IS_WRONG, COMMAND_IS_WRONG, COMPILER_IS_WRONG = 0, 1, 2, 70


class CommandProblem(Exception):
    """The command line asks for something that cannot be."""


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


# The command line


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optforge",
        description="Optimizers as short specs, compiled to PyTorch.",
        epilog="Try: optforge new Mine && optforge check mine.opt && optforge build mine.opt",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_check(commands)
    add_build(commands)
    add_fmt(commands)
    add_small_commands(commands)
    return parser


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


def add_check(commands: Commands) -> None:
    parser = add_command(commands, "check", run_check, "say what is wrong with specs", "optforge check specs/namo.opt")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="spec files, or folders of them")
    parser.add_argument("--json", action="store_true", help="print the diagnostics as JSON, for editors")
    add_dump(parser)


def add_dump(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dump-after", metavar="PASS", help="print the program as it is after a pass, and stop there")
    parser.add_argument("--verify", action="store_true", help="check the compiler's own invariants after each pass")


def add_build(commands: Commands) -> None:
    example = "optforge build specs/namo.opt --out my_optimizers"
    parser = add_command(commands, "build", run_build, "write the PyTorch modules of specs", example)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="spec files or folders (default: specs/)")
    parser.add_argument("--out", type=Path, default=Path("generated"), help="where to write (default: generated)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    parser.add_argument("--standalone", action="store_true", help="files that depend on torch alone, one per spec")
    add_dump(parser)


def add_fmt(commands: Commands) -> None:
    parser = add_command(commands, "fmt", run_fmt, "lay out specs in the one standard way", "optforge fmt specs/*.opt")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="spec files, or folders of them")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; print what would change")


def add_small_commands(commands: Commands) -> None:
    parser = add_command(commands, "explain", run_explain, "explain an error code at length", "optforge explain E012")
    parser.add_argument("code", metavar="CODE", help="such as E012; `all` lists every code")
    add_command(commands, "ops", run_ops, "list the operators of the language", "optforge ops")
    parser = add_command(commands, "new", run_new, "write a commented spec to start from", "optforge new Mine")
    parser.add_argument("name", metavar="NAME", help="the name of the optimizer, such as Mine")


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


# Commands


def run_check(options: argparse.Namespace) -> int:
    units = checked_units(options.files, options.json)
    if options.dump_after and all(unit.result.program for unit in units):
        dump_units(units, options.dump_after, options.verify)
    return FINE if all(unit.result.program for unit in units) else SPEC_IS_WRONG


def checked_units(files: Sequence[Path], as_json: bool = False) -> list[Unit]:
    """Check every file and show all that is wrong, with all of them, in one go."""
    from optforge.compiler.check import check_file

    units = [check_file(path) for path in spec_paths(files)]
    report((diagnostic for unit in units for diagnostic in unit.result.diagnostics), as_json)
    return units


def dump_units(units: Sequence[Unit], after: str, verify: bool) -> None:
    from optforge.compiler.pipeline import PASSES, run_passes
    from optforge.compiler.text import dump_function
    from optforge.compiler.validate import functions_of

    names = [name for name, _ in PASSES]
    if after not in names:
        raise CommandProblem(f"there is no pass `{after}`; the passes are {', '.join(names)}")
    for unit in units:
        program = run_passes(unit.result.require(), until=after, verify=verify)
        print("\n\n".join(dump_function(function) for function in functions_of(program)))


def run_build(options: argparse.Namespace) -> int:
    from optforge.compiler.build import BuildProblem, generated_files, generated_modules, sync_files

    units = checked_units(options.files or default_specs())
    if not all(unit.result.program for unit in units):
        return SPEC_IS_WRONG
    if options.dump_after:
        dump_units(units, options.dump_after, options.verify)
        return FINE
    try:
        files = generated_files(units, options.out, options.standalone, whole=not options.files)
    except BuildProblem as problem:
        raise CommandProblem(str(problem)) from None
    stale = [] if options.files else [path for path in generated_modules(options.out) if path not in files]
    different = sync_files(files, options.check)
    if options.check:
        return reported_differences([*different, *stale], options)
    for path in stale:
        path.unlink()
    for path in different:
        say(f"wrote {path}")
    say(f"{len(files)} files, {len(different)} written, {len(stale)} removed")
    return FINE


def default_specs() -> list[Path]:
    if not Path("specs").is_dir():
        raise CommandProblem("there is no folder specs/ here: name the files to build")
    return [Path("specs")]


def reported_differences(different: Sequence[Path], options: argparse.Namespace) -> int:
    if not different:
        return FINE
    for path in different:
        say(f"{path} is not what its spec says")
    command = ["optforge", "build", *(str(path) for path in options.files)]
    command += ["--out", str(options.out)] if options.out != Path("generated") else []
    command += ["--standalone"] if options.standalone else []
    say(f"run: {' '.join(command)}")
    return SPEC_IS_WRONG


def run_fmt(options: argparse.Namespace) -> int:
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
            path.write_text(text, encoding="utf-8", newline="\n")
            say(f"formatted {path}")
        if options.check:
            say(f"{path} would be formatted")
            code = SPEC_IS_WRONG
    return code


def print_difference(path: Path, before: str, after: str) -> None:
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(True), after.splitlines(True), str(path), f"{path} (formatted)")
    sys.stdout.writelines(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def run_explain(options: argparse.Namespace) -> int:
    from optforge.dsl.errors import CATALOGUE, explain

    if options.code.lower() == "all":
        for entry in CATALOGUE.values():
            print(f"{entry.code}  {entry.title}")
        return FINE
    text = explain(options.code.upper())
    if text is None:
        raise CommandProblem(f"there is no code {options.code}; `optforge explain all` lists them")
    print(text)
    return FINE


def run_ops(options: argparse.Namespace) -> int:
    from optforge.compiler.ops import ROWS

    shown = [row for row in ROWS if not row.internal]
    forms = [
        (row.group, written_form(row.name, row.symbol, row.signature, len(row.parameters)), row.doc) for row in shown
    ]
    width = max(len(form) for _, form, _ in forms)
    for group in dict.fromkeys(group for group, _, _ in forms):
        print(f"{group}:")
        for _, form, doc in (each for each in forms if each[0] == group):
            print(f"    {form.ljust(width)}  {doc}")
    print(f"memory:\n    {'prev(x, init=0)'.ljust(width)}  x one step ago; init at the first step")
    return FINE


def written_form(name: str, symbol: str, signature: str, arguments: int) -> str:
    """How a spec writes the operator."""
    if not symbol:
        return signature
    if arguments == 2:
        return f"x {symbol} y"
    return f"x{symbol}" if name == "transpose" else f"{symbol} x" if symbol.isalpha() else f"{symbol}x"


NEW_SPEC = '''"""{name}: say here in one line what is new about it, and where it comes from (arXiv id)."""

optimizer {name}:
    # Each hyper becomes a constructor argument and a key of every parameter group.
    hyper lr           = 1e-2 where lr >= 0            "learning rate"
    hyper beta         = 0.95 where 0 <= beta < 1      "decay of the momentum"
    hyper weight_decay = 0.1  where weight_decay >= 0  "decay of the weights per unit of lr"

    # One step of a hidden weight matrix: equations, in any order. `grad` and `weight` are of this
    # step, `prev(x)` is x one step ago; `optforge ops` lists the operators.
    for matrix:
        m = momentum(grad, beta)
        d = orthogonalize(m)
        weight <- weight - lr * (0.2 * sqrt(max(rows, cols)) * d + weight_decay * weight)

        # A claim is checked, never trusted.
        claim scale_free(grad)

    # Everything else (embeddings, head, norms, biases) follows an optimizer that exists.
    for rest: use AdamW(lr=lr, beta2=0.95, weight_decay=0)
'''


def run_new(options: argparse.Namespace) -> int:
    from optforge.compiler.check import check_source
    from optforge.dsl.source import Source

    if not options.name.isidentifier() or not options.name.isascii():
        raise CommandProblem(f"`{options.name}` is no name: letters, digits and _ only, beginning with a letter")
    text = NEW_SPEC.format(name=options.name)
    problems = check_source(Source(f"{options.name}.opt", text)).diagnostics
    if problems:
        raise CommandProblem(problems[0].message)
    path = Path(f"{options.name.lower()}.opt")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandProblem(f"{path} exists already") from None
    say(f"wrote {path}; next: optforge check {path}")
    return FINE
