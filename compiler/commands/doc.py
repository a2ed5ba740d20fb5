"""`optforge doc`: the mathematics of a spec as a paper prints it, in LaTeX or Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optforge.compiler.commands.console import FINE, CommandProblem, Commands, add_command, report, say

if TYPE_CHECKING:
    from optforge.compiler.driver import Snapshot
    from optforge.compiler.targets.base import Target

SUBJECT = "a spec file, the name of a shipped spec, or a composition such as 'Muon |> Grokfast(alpha=0.95)'"


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "doc", run_doc, "print a spec as a paper does: equations, hyperparameters, states",
        "optforge doc Muon --latex -o muon.tex",
    )  # fmt: skip
    parser.add_argument("spec", metavar="SPEC", help=SUBJECT)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--latex", action="store_true", help="a document for pdflatex, with amsmath and algorithmicx")
    form.add_argument("--markdown", action="store_true", help="a page with mathematics that KaTeX knows")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write this file instead of printing")


def run_doc(options: argparse.Namespace) -> int:
    from optforge.compiler.output import write_whole
    from optforge.compiler.targets.document.target import LATEX, MARKDOWN

    text = render_document(options.spec, LATEX if options.latex else MARKDOWN)
    if options.output is None:
        print(text, end="")
    else:
        write_whole(options.output, text)
        say(f"wrote {options.output}")
    return FINE


def render_document(path_or_name: str, target: Target) -> str:
    """The text of a document; warnings are shown, and what is wrong with the spec is a :class:`SpecError`."""
    from optforge.compiler.driver import documented_program
    from optforge.compiler.targets.base import Origin

    snapshot = checked_snapshot(path_or_name, target)
    program = documented_program(snapshot.require(), target.rewrites)
    report(snapshot.diagnostics)
    if not (program.declarations or program.wrappers):
        raise CommandProblem(f"{path_or_name} defines functions alone, which are printed with what calls them")
    return target.render(program, Origin.of(snapshot.source))


def checked_snapshot(path_or_name: str, target: Target) -> Snapshot:
    from optforge.compiler.driver import check_source
    from optforge.compiler.load import source_of

    try:
        source, folder = source_of(path_or_name)
    except LookupError as problem:
        raise CommandProblem(str(problem)) from None
    return check_source(source, folder, reserved=target.reserved)
