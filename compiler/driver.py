"""The driver: the one place that knows the order of the stages.

Text -> tree -> names -> types -> states gives a :class:`Snapshot`; the passes, common ones and those of a target,
rewrite its program. A stage collects all its errors; the driver stops after a stage that failed. Needs neither arrays
nor templates, and knows of a target what its record says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from optforge.compiler.analysis.facts import with_facts
from optforge.compiler.frontend.files import Answer, Files, Lookup, real_path
from optforge.compiler.frontend.references import References
from optforge.compiler.frontend.reporting import Report, ReservedNames
from optforge.compiler.frontend.resolve import resolve_file
from optforge.compiler.frontend.resolved import RawProgram
from optforge.compiler.frontend.rules.compositions import lower_words
from optforge.compiler.frontend.types.typecheck import check_program
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import Task
from optforge.compiler.ir.verifier import require_valid
from optforge.compiler.passes.common_subexpressions import share_subexpressions
from optforge.compiler.passes.copy_propagation import propagate_copies
from optforge.compiler.passes.dead_code import drop_dead
from optforge.compiler.passes.fold import fold_constants, simplify
from optforge.compiler.passes.order_equations import schedule_equations
from optforge.compiler.passes.sink_into_branches import guard_branches
from optforge.compiler.streams.fingerprints import with_fingerprints
from optforge.compiler.streams.lower_streams import check_streams
from optforge.compiler.targets.base import NamedPass, Pass, Rewrites, Target
from optforge.dsl import ast
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source

# What is said where a file is to give classes and has functions for others alone.
FUNCTIONS_ONLY = "defines functions and wrappers only: no optimizer, schedule or penalty"
REMEMBERED, VERSIONS = 256, 16  # texts that a workspace keeps, and for each what it was with other files beside it


# From text to a program


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that is known of one text: as far as the stages came, and everything that is wrong with it.

    Attributes:
        source: the text.
        path: its file, or the name of its text.
        tree: what the text says; None if it does not parse.
        typed: its declarations with names and types found; None with at least one error.
        program: the same as functions of states; None with at least one error.
        references: what its names mean, as far as they were looked at.
        diagnostics: errors and warnings.
        asked: what it took from other files, and what these said.
    """

    source: Source
    path: Path
    tree: ast.File | None = None
    typed: RawProgram | None = None
    program: ir.Program | None = None
    references: References = field(default_factory=References)
    diagnostics: tuple[Diagnostic, ...] = ()
    asked: Mapping[Lookup, Answer] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(each for each in self.diagnostics if each.severity == "error")

    def require(self) -> ir.Program:
        """The program, or a :class:`SpecError` with everything that is wrong."""
        if self.program is None:
            raise SpecError(self.errors)
        return self.program


def check_source(
    source: Source, folder: Path | None = None, files: Files | None = None, reserved: ReservedNames | None = None
) -> Snapshot:
    """Everything that can be wrong with a spec, and what it says.

    Args:
        source: the text.
        folder: where its neighbours stand.
        files: these, as they were seen.
        reserved: names that the code it is to become has for itself.
    """
    report = Report(reserved)
    tree, problems = parse_source(source)
    for problem in problems:
        report(problem)
    files = files or Files()
    if tree is None or report.failed:
        return Snapshot(source, Path(source.path), diagnostics=tuple(report.diagnostics))
    references = References()
    typed, program, found = check_tree(tree, folder, report, files, references)
    return Snapshot(source, Path(source.path), tree, typed, program, references, found, files.asked)


Checked = tuple["RawProgram | None", "ir.Program | None", tuple[Diagnostic, ...]]


def check_tree(
    tree: ast.File, folder: Path | None, report: Report, files: Files, references: References | None = None
) -> Checked:
    """The stages after the parser: what they made of a tree, and everything that was reported."""
    typed = program = None
    try:
        resolved = resolve_file(tree, folder, report, files, references)
        typed = None if report.failed else check_program(resolved, report)
        program = None if report.failed or typed is None else check_streams(typed, report)
    except SpecError as error:
        return None, None, (*report.diagnostics, *error.diagnostics)
    return (None, None, tuple(report.diagnostics)) if report.failed else (typed, program, tuple(report.diagnostics))


def check_file(path: Path, reserved: ReservedNames | None = None) -> Snapshot:
    """Read and check one spec file; what is wrong is in the diagnostics."""
    return Workspace(reserved).snapshot(path)


class Workspace:
    """Specs that are looked at again and again: a snapshot stays the same object while nothing it rests on changes.

    What counts is what the files say, the spec's own and those that it took something from, never their dates. They are
    read once until :meth:`refresh`. ``overlays`` are texts that count in place of files, by absolute path.
    """

    def __init__(self, reserved: ReservedNames | None = None) -> None:
        self.overlays: dict[Path, str] = {}
        self.files = Files({}, self.overlays)
        self._reserved = reserved
        self._known: dict[tuple[str, str, Path | None, Path], list[Snapshot]] = {}

    def refresh(self) -> None:
        """Look at the files again from now on."""
        self.files = Files({}, self.overlays)

    def edit(self, path: Path, text: str | None) -> None:
        """Let a text count in place of a file; None gives the file back."""
        self.overlays.pop(real_path(path), None)
        if text is not None:
            self.overlays[real_path(path)] = text
        self.refresh()

    def snapshot(self, path: Path) -> Snapshot:
        """What is known of a file; what is wrong with it, or with reading it, is in the diagnostics."""
        source, problems = self.files.read(path)
        if source is None:
            return Snapshot(Source(path.as_posix(), ""), path, diagnostics=problems)
        return self.snapshot_of(source, real_path(path).parent, path)

    def snapshot_of(self, source: Source, folder: Path | None = None, path: Path | None = None) -> Snapshot:
        """What is known of a text whose neighbours stand in ``folder``."""
        key = source.path, source.text, folder and real_path(folder), path or Path(source.path)
        versions = self._known.get(key, [])
        for version in versions:
            if self.files.confirms(version.asked):
                return version
        made = check_source(source, folder, self.files.anew(), self._reserved)
        made = replace(made, path=key[-1])
        if not made.errors:  # their messages name what else there is to choose from, which other files may change
            self._known[key] = [made, *versions][:VERSIONS]
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return made


# Compositions in place of a spec


def is_composition(text: object) -> bool:
    """Whether this is a composition, and neither a path nor a name: ``Muon |> Grokfast(alpha=0.95)``."""
    return isinstance(text, str | Path) and "|>" in str(text)


def composition_source(text: str) -> Source:
    """The spec that a composition stands for, with one optimizer, which is called by the parts of it."""
    parts = [part.partition("(")[0].strip() for part in text.split("|>")]
    name = "".join(part for part in parts if part.isidentifier()) or "Composition"
    return Source(f"{lower_words(name)}.opt", f"optimizer {name} = {text.strip()}\n")


# From a program to what a target renders

SIMPLIFY: tuple[NamedPass, ...] = (
    ("fold", fold_constants),  # first, so that flags which are false leave nothing for the others to see
    ("propagate", propagate_copies),  # brings the inlined pieces together, where idioms can be seen
    ("refold", fold_constants),  # literals that were arguments of functions have arrived
)
ARRANGE: tuple[NamedPass, ...] = (
    ("share", share_subexpressions),
    ("dead", drop_dead),
    ("schedule", schedule_equations),  # the rest reads the order
    ("guard", guard_branches),
)


def passes_of(rewrites: Rewrites) -> tuple[NamedPass, ...]:
    """All passes in their order: a target recognizes what it has in one before parts of it are shared."""
    arranging = ARRANGE if rewrites.is_arranged else ()
    return (*rewrites.outline, *SIMPLIFY, *rewrites.recognize, *arranging, *rewrites.finish)


def compile_program(
    source: Source, target: Target, folder: Path | None = None, files: Files | None = None
) -> ir.Program:
    """A spec's program, ready for a target; raises :class:`SpecError` with everything that is wrong."""
    return run_passes(check_source(source, folder, files, target.reserved).require(), target.rewrites)


def run_passes(program: ir.Program, rewrites: Rewrites, until: str | None = None, verify: bool = False) -> ir.Program:
    """The program after all passes, or after the one named ``until``."""
    program = fold_requirements(with_facts(with_fingerprints(program)))
    for name, rewrite in passes_of(rewrites):
        program = map_functions(rewrite, program)
        if verify:
            require_valid(program, name)
        if name == until:
            break
    return program


def documented_program(program: ir.Program, rewrites: Rewrites) -> ir.Program:
    """The program for people: its wrappers are changed as its declarations are, and nothing is said to checkpoints."""
    count = len(program.declarations)
    whole = fold_requirements(replace(program, declarations=(*program.declarations, *program.wrappers)))
    for _, rewrite in passes_of(rewrites):
        whole = map_functions(rewrite, whole)
    wrappers = tuple(each for each in whole.declarations[count:] if isinstance(each, ir.Optimizer))
    return replace(whole, declarations=whole.declarations[:count], wrappers=wrappers)


def simplified(function: ir.Function) -> ir.Function:
    """The function after the passes that every target begins with."""
    for _, rewrite in SIMPLIFY:
        function = rewrite(function)
    return function


def arrange(function: ir.Function, rewrites: Rewrites) -> ir.Function:
    """A function that a target has made of parts of others, in an order and with all that its target writes it by."""
    for rewrite in (schedule_equations, guard_branches, *(rewrite for _, rewrite in rewrites.finish)):
        function = rewrite(function)
    return function


def fold_requirements(program: ir.Program) -> ir.Program:
    """Conditions with what ``use`` binds put in; those that hold for sure are gone. Functions are told the others."""

    def fold(old: ir.Declaration) -> ir.Declaration:
        simple = [replace(r, condition=ir.transform(simplify, r.condition)) for r in old.requirements]
        kept = tuple(r for r in simple if not isinstance(r.condition, ir.Literal))
        given = tuple(requirement.condition for requirement in kept)

        def tell(function: ir.Function) -> ir.Function:
            """What `was` computes from comes from an older checkpoint, with conditions of its own."""
            return function if function.name.task is Task.PAST else replace(function, given=given)

        return replace(change_declaration(old, tell), requirements=kept)

    return replace(program, declarations=tuple(fold(each) for each in program.declarations))


def map_functions(change: Pass, program: ir.Program) -> ir.Program:
    """The program with every function rewritten."""
    return replace(program, declarations=tuple(change_declaration(each, change) for each in program.declarations))


def change_declaration(old: ir.Declaration, change: Pass) -> ir.Declaration:
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
