"""The driver: the one place that knows the order of the stages.

The checks give a typed program whose states are known, ``PASSES`` rewrite it; a target renders it. A stage collects all
its errors; the driver stops after a stage that failed. Needs neither arrays nor templates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from optforge.compiler.analysis.facts import with_facts
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolve import resolve_file
from optforge.compiler.frontend.types.typecheck import check_program
from optforge.compiler.frontend.workspace import Workspace
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.verifier import require_valid
from optforge.compiler.passes.common_subexpressions import share_subexpressions
from optforge.compiler.passes.copy_propagation import propagate_copies
from optforge.compiler.passes.dead_code import drop_dead
from optforge.compiler.passes.fold import fold_constants, simplified
from optforge.compiler.passes.order_equations import schedule_equations
from optforge.compiler.passes.sink_into_branches import guard_branches
from optforge.compiler.streams.fingerprints import with_fingerprints
from optforge.compiler.streams.lower_streams import check_streams
from optforge.compiler.targets.torch.passes.idioms import recognize_idioms
from optforge.compiler.targets.torch.passes.in_place import plan_storage
from optforge.compiler.targets.torch.passes.norms import reuse_norms
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


Pass = Callable[[ir.Function], ir.Function]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("fold", fold_constants),  # first, so that flags which are false leave nothing for the others to see
    ("propagate", propagate_copies),  # brings the inlined pieces together, where idioms can see them
    ("refold", fold_constants),  # literals that were arguments of functions have arrived
    ("idioms", recognize_idioms),  # before sharing, which would hide the parts of an idiom behind names
    ("norms", reuse_norms),  # before sharing, which gives the reduction that is now read twice a name
    ("share", share_subexpressions),
    ("dead", drop_dead),
    ("schedule", schedule_equations),  # the rest reads the order
    ("guard", guard_branches),
    ("storage", plan_storage),  # last: it speaks of the final order and the final names
)


def compile_program(source: Source, folder: Path | None = None, workspace: Workspace | None = None) -> ir.Program:
    """A spec's program, ready for a target; raises :class:`SpecError` with everything that is wrong."""
    return run_passes(check_source(source, folder, workspace).require())


def run_passes(
    program: ir.Program, until: str | None = None, verify: bool = False, in_place: bool = True
) -> ir.Program:
    """The program after all passes, or after the one named ``until``."""
    program = fold_requirements(with_facts(with_fingerprints(program)))
    for name, rewrite in PASSES:
        if name != "storage" or in_place:
            program = map_functions(rewrite, program)
        if verify:
            require_valid(program, name)
        if name == until:
            break
    return program


def fold_requirements(program: ir.Program) -> ir.Program:
    """Conditions with what ``use`` binds put in; those that hold for sure are gone. Functions are told the others."""

    def folded(old: ir.Declaration) -> ir.Declaration:
        simple = [replace(r, condition=ir.transform(simplified, r.condition)) for r in old.requirements]
        kept = tuple(r for r in simple if not isinstance(r.condition, ir.Literal))
        given = tuple(requirement.condition for requirement in kept)

        def told(function: ir.Function) -> ir.Function:
            """What `was` computes from comes from an older checkpoint, with conditions of its own."""
            return function if function.name == "was" else replace(function, given=given)

        return replace(changed(old, told), requirements=kept)

    return replace(program, declarations=tuple(folded(each) for each in program.declarations))


def map_functions(change: Pass, program: ir.Program) -> ir.Program:
    """The program with every function rewritten."""
    return replace(program, declarations=tuple(changed(each, change) for each in program.declarations))


def changed(old: ir.Declaration, change: Pass) -> ir.Declaration:
    """The declaration with every function rewritten."""

    def stages(old: tuple[ir.Stage, ...]) -> tuple[ir.Stage, ...]:
        return tuple(replace(stage, function=change(stage.function)) for stage in old)

    def rule(old: ir.Rule) -> ir.Rule:
        return replace(
            old,
            step=stages(old.step),
            initial=change(old.initial) if old.initial else None,
            was=tuple(change(each) for each in old.was),
            events=tuple(replace(event, step=stages(event.step)) for event in old.events),
        )

    if isinstance(old, ir.Schedule):
        return replace(old, function=change(old.function))
    rules = tuple(rule(each) for each in old.rules)
    if isinstance(old, ir.Penalty):
        return replace(old, rules=rules)
    return replace(old, rules=rules, was=tuple(change(each) for each in old.was))
