"""The first half of the compiler: text -> names -> types -> streams. Needs neither arrays nor templates.

A stage collects all its errors; the driver stops after a stage that failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optforge.compiler import ir
from optforge.compiler.library import Report
from optforge.compiler.resolve import resolve_file
from optforge.compiler.streams import check_streams
from optforge.compiler.typecheck import check_program
from optforge.compiler.workspace import Workspace
from optforge.dsl import ast
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.parser import parse_source, read_source
from optforge.dsl.source import Source

# What is said where a file is to give classes and has functions for others alone.
FUNCTIONS_ONLY = "defines functions only: no optimizer, schedule or penalty"


@dataclass(frozen=True, slots=True)
class Result:
    """A checked program, or None with at least one error; warnings come either way."""

    program: ir.Program | None
    diagnostics: tuple[Diagnostic, ...]

    def require(self) -> ir.Program:
        """The program, or a :class:`SpecError` with everything that is wrong."""
        if self.program is None:
            raise SpecError(tuple(d for d in self.diagnostics if d.severity == "error"))
        return self.program


def check_source(source: Source, folder: Path | None = None, workspace: Workspace | None = None) -> Result:
    """Everything that can be wrong with a spec; its neighbours stand in ``folder``, as ``workspace`` sees it."""
    report = Report()
    file, problems = parse_source(source)
    for problem in problems:
        report(problem)
    if file is None or report.failed:
        return Result(None, tuple(report.diagnostics))
    return check_tree(file, folder, report, workspace)


def check_tree(file: ast.File, folder: Path | None, report: Report, workspace: Workspace | None = None) -> Result:
    """Everything that can be wrong with a parsed spec, added to what the report has already."""
    try:
        raw = resolve_file(file, folder, report, workspace)
        if not report.failed:
            raw = check_program(raw, report)
        program = None if report.failed else check_streams(raw, report)
    except SpecError as error:
        return Result(None, (*report.diagnostics, *error.diagnostics))
    return Result(None if report.failed else program, tuple(report.diagnostics))


@dataclass(frozen=True, slots=True)
class Unit:
    """A spec file that was read and checked, and the files beside it as they were then."""

    path: Path
    source: Source
    result: Result
    workspace: Workspace = field(default_factory=Workspace)


def check_file(path: Path, workspace: Workspace | None = None) -> Unit:
    """Read and check one spec file; what is wrong is in the result's diagnostics."""
    workspace = workspace or Workspace()
    source, problems = read_source(path)
    if source is None:
        return Unit(path, Source(str(path), ""), Result(None, problems), workspace)
    return Unit(path, source, check_source(source, path.resolve().parent, workspace), workspace)
