"""``state(expr)``: whether these are the numbers that a rule keeps from step to step.

The shapes of states are part of their types, so their number is exact, and so is the answer where the claim is a
polynomial too: two that differ do so at a small shape.
"""

from __future__ import annotations

from optforge.compiler.analysis.polynomials import Polynomial, polynomial_of
from optforge.compiler.analysis.state_size import state_of
from optforge.compiler.ir.types import Type
from optforge.compiler.verify.claims.questions import Question
from optforge.compiler.verify.shared.verdicts import Proved, Refuted, Unknown, Verdict


def decide_state(question: Question) -> Verdict:
    rule = question.subject.rule
    if question.claim.form != "state" or rule is None:
        return Unknown("it is not about the state")
    found = state_of(rule.states)
    claimed = polynomial_of(question.claim.promise)
    if claimed is None:
        return Unknown("it is no polynomial in rows and cols")
    different = shape_that_differs(found, claimed, rule.orientation, rule.rank is not None)
    if found == claimed or (different is None and is_whole(claimed)):
        return Proved(f"{found} numbers" if str(found) != "0" else "nothing is kept")
    if different is None:
        return Unknown("no small shape tells the two apart")
    shown = ", ".join(f"{state.name} {shape_text(state.type)}" for state in rule.states) or "nothing"
    return Refuted(
        (
            ("kept", shown),
            ("in all", str(found)),
            ("shape", difference_text(found, claimed, different, rule.rank is not None)),
        )
    )


def difference_text(found: Polynomial, claimed: Polynomial, different: tuple[int, int, int], has_rank: bool) -> str:
    """A shape at which two polynomials differ, and what they are there."""
    rows, cols, rank = different
    shape = f"{rows} x {cols}{f' of rank {rank}' if has_rank else ''}"
    return f"{shape}: {found.value(*different):g} numbers, not {claimed.value(*different):g}"


def shape_that_differs(
    found: Polynomial, claimed: Polynomial, orientation: str, has_rank: bool
) -> tuple[int, int, int] | None:
    """The smallest shape, and rank, that a rule sees at which two polynomials differ, if there is one up to 32 x 32.

    With whole exponents up to 8 there is one, if they differ anywhere: no two such polynomials agree on so many shapes.
    """
    shapes = sorted(((r, c) for r in range(1, 33) for c in range(1, 33)), key=lambda shape: (sum(shape), shape))
    if orientation:
        shapes = [(r, c) for r, c in shapes if (r <= c if orientation == "wide" else r >= c)]
    ranked = [(r, c, k) for r, c in shapes for k in range(1, (min(r, c) if has_rank else 1) + 1)]
    return next((shape for shape in ranked if found.value(*shape) != claimed.value(*shape)), None)


def is_whole(polynomial: Polynomial) -> bool:
    """Whether no exponent is a fraction, negative or large."""
    return all(each.denominator == 1 and -8 <= each <= 8 for exponents in polynomial.terms for each in exponents)


def shape_text(found: Type) -> str:
    assert found.shape is not None
    return f"({found.shape[0].value}, {found.shape[1].value})"
