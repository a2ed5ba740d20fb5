"""Claims decided by cases: random and hostile ones, until one refutes the claim or the budget is used up."""

from __future__ import annotations

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.verify.claims.examine import Counterexample, Examiner, examiner_for
from optforge.compiler.verify.claims.questions import Question, Subject
from optforge.compiler.verify.claims.shrink import shrink_counterexample
from optforge.compiler.verify.claims.trial import Case, draw_case
from optforge.compiler.verify.shared.gradients import PLAIN, STREAMS, Array
from optforge.compiler.verify.shared.hyper_values import HyperValues, NoValues
from optforge.compiler.verify.shared.verdicts import Refuted, Tested, Unknown, Verdict


def decide_by_cases(question: Question) -> Verdict:
    """Tested, or refuted by a small counterexample; a claim that no case says anything of stays unknown."""
    examine = examiner_for(question)
    if examine is None:
        return Unknown("only polynomials in rows and cols are decided")
    streams = PLAIN if question.claim.form == "scale_free" else STREAMS
    values, decided = HyperValues(question.subject.declaration), 0
    for index in range(question.budget.examples):
        random = np.random.default_rng([question.budget.seed, index])
        try:
            case = draw_case(question.subject, values, random, streams)
        except NoValues:
            return Unknown("no hyperparameters that keep all conditions were found")
        outcome = examine(case)
        if outcome.counterexample is not None:
            return refutation(question, outcome.counterexample, examine, values)
        decided += outcome.decided
    return Tested(decided) if decided else Unknown("no case decided it")


def refutation(question: Question, counterexample: Counterexample, examine: Examiner, values: HyperValues) -> Refuted:
    small = shrink_counterexample(counterexample, examine, values)
    return Refuted((*case_values(question.subject, small.case, small.step), *small.values))


def case_values(subject: Subject, case: Case, step: int) -> list[tuple[str, str]]:
    """What a person needs to see the same."""
    declaration = subject.declaration
    hypers = ", ".join(f"{each.name} = {value_text(case.hypers[each.name])}" for each in subject.hypers)
    shown = [("hypers", hypers or "none are read")]
    if isinstance(declaration, ir.Schedule):
        return [*shown, ("step", str(step))]
    shown += [("shape", " x ".join(map(str, case.weight.shape))), ("weight", array_text(case.weight))]
    if isinstance(declaration, ir.Penalty):
        return shown
    shown.append(("began as", case.stream))
    for index, grad in enumerate(case.grads, start=1):
        for firing in (firing for firing in case.firings if firing.step == index):
            given = ", ".join(f"{name}={value_text(value)}" for name, value in firing.arguments.items())
            shown.append((f"{firing.name}({given})", array_text(firing.grad)))
        shown.append((f"grad {index}", array_text(grad)))
    return [*shown, ("step", str(step))]


def value_text(value: ir.Value | Array) -> str:
    if isinstance(value, np.ndarray):
        return array_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    return number_text(value) if isinstance(value, float) else str(value)


def array_text(array: Array) -> str:
    """All numbers of a small array, row by row."""
    rows = ("[" + ", ".join(number_text(value) for value in row) + "]" for row in array.tolist())
    return "[" + ", ".join(rows) + "]"


def number_text(value: float) -> str:
    short = f"{value + 0.0:g}"  # no minus in front of 0
    return short if float(short) == value else repr(value)
