"""The order in which claims are decided: what can be proved first, cases last."""

from __future__ import annotations

from optforge.compiler.verify.claims.cases import decide_by_cases
from optforge.compiler.verify.claims.communication_claims import decide_communication
from optforge.compiler.verify.claims.cost_claims import decide_cost
from optforge.compiler.verify.claims.questions import Decider, Question
from optforge.compiler.verify.claims.state_claims import decide_state
from optforge.compiler.verify.shared.verdicts import Unknown, Verdict

DECIDERS: tuple[Decider, ...] = (
    decide_state,  # exact: shapes are types
    decide_communication,  # exact, of the cut that says what is computed where
    decide_cost,  # exact, of what the operator table counts
    decide_by_cases,  # of everything that a run shows; a proof of such a claim belongs in front of it
)


def decide(question: Question) -> Verdict:
    """The verdict of the first decider that has one."""
    verdict: Verdict = Unknown("nothing decides claims of this form")
    for decider in DECIDERS:
        verdict = decider(question)
        if not isinstance(verdict, Unknown):
            break
    return verdict
