"""``cost(expr)``: whether the arithmetic of a step is O(expr).

One polynomial bounds another up to a factor when, along every way rows and cols can grow, its largest exponent is at
least as large. Let rows = n^a and cols = n^b: the exponent of a term is linear in (a, b) on either side of a = b, and
the largest exponent of the claim bends only where two of its terms meet, so those points and the ends of the
two sides decide. That is a proof, of the count that the operator table gives. Hyperparameters are constants, so a claim
may not owe its growth to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import combinations
from typing import TypeAlias

from optforge.compiler.analysis.cost import cost_of, expression_cost
from optforge.compiler.analysis.polynomials import (
    CONSTANT,
    Exponents,
    Polynomial,
    collect_terms,
    polynomial_of,
    power_text,
)
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import name_text
from optforge.compiler.verify.claims.questions import Question
from optforge.compiler.verify.shared.verdicts import Proved, Refuted, Unknown, Verdict

Direction: TypeAlias = tuple[Fraction, Fraction]  # rows = n^a, cols = n^b
ZERO, ONE = Fraction(0), Fraction(1)


def decide_cost(question: Question) -> Verdict:
    rule = question.subject.rule
    if question.claim.form != "cost" or rule is None:
        return Unknown("it is not about cost")
    claimed = polynomial_of(constants_as_one(question.claim.promise))
    if claimed is None or any(factor < 0 for factor in claimed.terms.values()):
        return Unknown("its growth is not that of a polynomial in rows and cols with positive terms")
    total = cost_of([stage.function for stage in rule.step], question.subject.declaration)
    direction = direction_of_excess(total.terms, claimed.terms, rule.orientation)
    if direction is None:
        return Proved(f"grows as {highest(total, rule.orientation)}")
    worst = max(total.terms, key=lambda exponents: exponent_along(exponents, direction))
    costly = [
        name_text(equation.name)
        for equation in rule.update.equations
        if worst in expression_cost(equation.value, question.subject.declaration).terms
    ]
    return Refuted(
        (
            (
                "costs",
                f"grows as {highest(total, rule.orientation)}"
                + (f", the most in {', '.join(costly)}" if costly else ""),
            ),
            ("where", f"{direction_text(direction)}: {along(total, direction)} against {along(claimed, direction)}"),
        )
    )


def constants_as_one(expr: ir.Expr) -> ir.Expr:
    """Hyperparameters do not grow with the shape."""
    return ir.transform(
        lambda node: (
            ir.Literal(1.0, "1") if isinstance(node, ir.Input) and node.source is ir.InputSource.HYPER else node
        ),
        expr,
    )


def direction_of_excess(found: Iterable[Exponents], claimed: Iterable[Exponents], orientation: str) -> Direction | None:
    """A way to grow along which some term outgrows all that are claimed; None where there is none.

    What a rule sees as wide has no more rows than columns, and what it sees as tall no fewer.
    """
    terms = tuple(claimed)
    for direction in deciding_directions(terms):
        a, b = direction
        if (orientation == "wide" and a > b) or (orientation == "tall" and a < b):
            continue
        bound = max((exponent_along(term, direction) for term in terms), default=Fraction(-1))
        if any(exponent_along(term, direction) > bound for term in found):
            return direction
    return None


def deciding_directions(terms: tuple[Exponents, ...]) -> Iterator[Direction]:
    """Both dimensions alike, one alone, and where two terms grow alike."""
    yield from ((ONE, ONE), (ONE, ZERO), (ZERO, ONE))
    for one, two in combinations(terms, 2):
        for first, second in ((0, 1), (1, 0)):  # the dimension that grows as n, and the other, as n^s
            rise = (one[second] + one[2]) - (two[second] + two[2])
            if rise and 0 < (slope := (two[first] - one[first]) / rise) < 1:
                yield (ONE, slope) if first == 0 else (slope, ONE)


def exponent_along(term: Exponents, direction: Direction) -> Fraction:
    a, b = direction
    return term[0] * a + term[1] * b + term[2] * min(a, b)


def highest(polynomial: Polynomial, orientation: str) -> str:
    """The terms that no other term outgrows, without their factors."""
    terms = list(polynomial.terms)
    kept = [
        term for term in terms if direction_of_excess([term], [other for other in terms if other != term], orientation)
    ]
    return str(collect_terms((term, ONE) for term in (kept or [CONSTANT])))


def along(polynomial: Polynomial, direction: Direction) -> str:
    exponent = max((exponent_along(term, direction) for term in polynomial.terms), default=ZERO)
    return power_text("n", exponent)


def direction_text(direction: Direction) -> str:
    match direction:
        case a, b if a == b:
            return "rows = cols = n"
        case a, b if not b:
            return "rows = n, cols fixed"
        case a, b if not a:
            return "cols = n, rows fixed"
        case a, b:
            return f"rows = {power_text('n', a)}, cols = {power_text('n', b)}"
