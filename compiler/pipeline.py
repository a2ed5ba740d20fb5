"""The second half of the compiler: the passes over a checked program, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from optforge.compiler import ir
from optforge.compiler.check import check_source
from optforge.compiler.facts import with_facts
from optforge.compiler.fingerprints import with_fingerprints
from optforge.compiler.passes.dead import drop_dead
from optforge.compiler.passes.fold import fold_constants, simplified
from optforge.compiler.passes.guard import guard_branches
from optforge.compiler.passes.idioms import recognize_idioms
from optforge.compiler.passes.norms import reuse_norms
from optforge.compiler.passes.propagate import propagate_copies
from optforge.compiler.passes.schedule import schedule_equations
from optforge.compiler.passes.share import share_subexpressions
from optforge.compiler.passes.storage import plan_storage
from optforge.compiler.validate import require_valid
from optforge.compiler.workspace import Workspace
from optforge.dsl.source import Source

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

    def rule(old: ir.Rule) -> ir.Rule:
        return replace(
            old,
            step=change(old.step),
            initial=change(old.initial) if old.initial else None,
            totals=tuple(change(total) for total in old.totals),
            was=tuple(change(each) for each in old.was),
            events=tuple(
                replace(event, function=change(event.function), totals=tuple(change(total) for total in event.totals))
                for event in old.events
            ),
        )

    if isinstance(old, ir.Schedule):
        return replace(old, function=change(old.function))
    rules = tuple(rule(each) for each in old.rules)
    if isinstance(old, ir.Penalty):
        return replace(old, rules=rules)
    return replace(old, rules=rules, was=tuple(change(each) for each in old.was))
