"""The compiler in order: text -> names -> types -> streams -> passes.

The only place that knows the order of the stages. A stage collects all its errors; the pipeline
stops after a stage that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from optforge.compiler import ir
from optforge.compiler.library import Report
from optforge.compiler.passes.dead import drop_dead
from optforge.compiler.passes.fold import fold_constants, simplified
from optforge.compiler.passes.guard import guard_branches
from optforge.compiler.passes.idioms import recognize_idioms
from optforge.compiler.passes.propagate import propagate_copies
from optforge.compiler.passes.schedule import schedule_equations
from optforge.compiler.passes.share import share_subexpressions
from optforge.compiler.passes.storage import plan_storage
from optforge.compiler.resolve import resolve_file
from optforge.compiler.streams import check_streams
from optforge.compiler.typecheck import check_program
from optforge.compiler.validate import require_valid
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source

Pass = Callable[[ir.Function], ir.Function]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("fold", fold_constants),  # first, so that flags which are false leave nothing for the others to see
    ("propagate", propagate_copies),  # brings the inlined pieces together, where idioms can see them
    ("refold", fold_constants),  # literals that were arguments of functions have arrived
    ("idioms", recognize_idioms),  # before sharing, which would hide the parts of an idiom behind names
    ("share", share_subexpressions),
    ("dead", drop_dead),
    ("schedule", schedule_equations),  # the rest reads the order
    ("guard", guard_branches),
    ("storage", plan_storage),  # last: it speaks of the final order and the final names
)


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


def check_source(source: Source, folder: Path | None = None) -> Result:
    """Everything that can be wrong with a spec; ``folder`` is where its neighbours stand."""
    report = Report()
    file, problems = parse_source(source)
    for problem in problems:
        report(problem)
    if file is None or report.failed:
        return Result(None, tuple(report.diagnostics))
    try:
        raw = resolve_file(file, folder, report)
        if not report.failed:
            raw = check_program(raw, report)
        program = None if report.failed else check_streams(raw, report)
    except SpecError as error:
        return Result(None, (*report.diagnostics, *error.diagnostics))
    return Result(None if report.failed else program, tuple(report.diagnostics))


def run_passes(
    program: ir.Program, until: str | None = None, verify: bool = False, in_place: bool = True
) -> ir.Program:
    """The program after all passes, or after the one named ``until``."""
    program = fold_requirements(program)
    for name, rewrite in PASSES:
        if name != "storage" or in_place:
            program = map_functions(rewrite, program)
        if verify:
            require_valid(program, name)
        if name == until:
            break
    return program


def fold_requirements(program: ir.Program) -> ir.Program:
    """Conditions with what ``use`` binds put in; those that hold for sure are gone."""

    def folded(old: ir.Declaration) -> ir.Declaration:
        simple = [replace(r, condition=ir.transform(simplified, r.condition)) for r in old.requirements]
        kept = tuple(r for r in simple if not isinstance(r.condition, ir.Literal))
        return replace(old, requirements=kept)

    return replace(program, declarations=tuple(folded(each) for each in program.declarations))


def map_functions(change: Pass, program: ir.Program) -> ir.Program:
    """The program with every function rewritten."""

    def rule(old: ir.Rule) -> ir.Rule:
        return replace(
            old,
            step=change(old.step),
            initial=change(old.initial) if old.initial else None,
            totals=tuple(change(total) for total in old.totals),
            events=tuple(replace(event, function=change(event.function)) for event in old.events),
        )

    def declaration(old: ir.Declaration) -> ir.Declaration:
        if isinstance(old, ir.Schedule):
            return replace(old, function=change(old.function))
        return replace(old, rules=tuple(rule(each) for each in old.rules))

    return replace(program, declarations=tuple(declaration(each) for each in program.declarations))
