"""Rules as their claims see them: a checked file in, for each rule the step with all that its claims read.

The compiled step keeps only what the new weight depends on. A claim may speak of a value that nothing else reads, or
look one step back at one, so the streams are worked out again here with the claims as results of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optforge.compiler.driver import Snapshot
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawRule
from optforge.compiler.ir import nodes as ir
from optforge.compiler.streams.lower_streams import RuleStreams
from optforge.compiler.verify.claims.questions import COMPARISON, Question, Subject
from optforge.compiler.verify.shared.budget import Budget
from optforge.dsl import ast
from optforge.dsl.diagnostics import SpecError

WATCHED_FORMS = (COMPARISON, "orthogonal")


def subjects_of(snapshot: Snapshot) -> list[Subject]:
    """The rules of a file, those left out that it only uses: their claims are made where they are written."""
    program, typed = snapshot.require(), snapshot.typed
    assert typed is not None
    report = Report()
    subjects = []
    for declaration, untyped in zip(program.declarations, typed.declarations, strict=True):
        rules = (None,) if isinstance(declaration, ir.Schedule) else declaration.rules
        for rule, raw_rule in zip(rules, untyped.rules, strict=True):
            if rule is None or not any(isinstance(each, ast.Delegate) for each in rule.written):
                watched = RuleStreams(with_claims(raw_rule), len(rules) > 1, report).rule("optimizer")
                subjects.append(Subject(declaration, rule, watched))
    if report.failed:
        raise SpecError(tuple(diagnostic for diagnostic in report.diagnostics if diagnostic.severity == "error"))
    return subjects


def with_claims(raw: RawRule) -> RawRule:
    """The rule with its claims among the results of its step."""
    values = [
        ir.Output(output_name(index), claim.promise)
        for index, claim in enumerate(raw.claims)
        if claim.form in WATCHED_FORMS
    ]
    return replace(raw, step=replace(raw.step, outputs=(*raw.step.outputs, *values)))


def output_name(index: int) -> str:
    return f"claim {index + 1}"


def questions_of(subject: Subject, budget: Budget) -> Iterator[Question]:
    for index, claim in enumerate(subject.watched.claims):
        yield Question(subject, claim, output_name(index), budget)
