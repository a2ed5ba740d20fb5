"""``communicates(expr)``: whether these are the numbers of a matrix that travel in a step where its rows are cut.

What goes to the owner of the matrix, what comes back, and the results of sums over its shards, each counted once: the
placement of the step says what these are, and their shapes are types. A sum over all parameters is one number more.
"""

from __future__ import annotations

from optforge.compiler.analysis.polynomials import monomial, polynomial_of
from optforge.compiler.analysis.sharding.placement import Cut, place_as_run
from optforge.compiler.analysis.sharding.report import numbers_sent, report_of
from optforge.compiler.ir.types import Dim
from optforge.compiler.verify.claims.questions import Question
from optforge.compiler.verify.claims.state_claims import difference_text, is_whole, shape_that_differs
from optforge.compiler.verify.shared.verdicts import Proved, Refuted, Unknown, Verdict


def decide_communication(question: Question) -> Verdict:
    rule = question.subject.rule
    if question.claim.form != "communicates" or rule is None:
        return Unknown("it is not about what ranks send")
    placement = place_as_run(rule.update, Cut(Dim.ROWS))
    totals = [each.name for stage in rule.step for each in stage.collectives]
    found = numbers_sent(placement) + monomial([], len(totals))
    claimed = polynomial_of(question.claim.promise)
    if claimed is None:
        return Unknown("it is no polynomial in rows and cols")
    different = shape_that_differs(found, claimed, rule.orientation, rule.rank is not None)
    if found == claimed or (different is None and is_whole(claimed)):
        return Proved(f"{found} numbers" if str(found) != "0" else "nothing is sent")
    if different is None:
        return Unknown("no small shape tells the two apart")
    report = report_of(placement)
    parts = [("to the owner", report.sent), ("and back", report.returned), ("sums over shards", report.reduced)]
    parts.append(("sums over all parameters", tuple(totals)))
    shown = [(label, ", ".join(names)) for label, names in parts if names]
    shape = difference_text(found, claimed, different, rule.rank is not None)
    return Refuted((*shown, ("in all", str(found)), ("shape", shape)))
