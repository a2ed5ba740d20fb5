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

Direction: TypeAlias = tuple[Fraction, Fraction, Fraction]  # rows = n^a, cols = n^b, rank = n^c with c <= a, b
Line: TypeAlias = tuple[Fraction, Fraction, Fraction]  # where x + y s + z c = 0
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
        a, b, _ = direction
        if (orientation == "wide" and a > b) or (orientation == "tall" and a < b):
            continue
        bound = max((exponent_along(term, direction) for term in terms), default=Fraction(-1))
        if any(exponent_along(term, direction) > bound for term in found):
            return direction
    return None


def deciding_directions(terms: tuple[Exponents, ...]) -> Iterator[Direction]:
    """Both dimensions alike, one alone, and every corner of the regions in which one claimed term is the largest.

    Let one dimension grow as n, the other as n^s and the rank as n^c, 0 <= c <= s <= 1: exponents are linear in these.
    """
    yield from ((ONE, ONE, ZERO), (ONE, ZERO, ZERO), (ZERO, ONE, ZERO))
    edges: tuple[Line, ...] = ((ZERO, ONE, ZERO), (-ONE, ONE, ZERO), (ZERO, ZERO, ONE), (ZERO, -ONE, ONE))
    for first, second in ((0, 1), (1, 0)):
        slopes = [(each[first], each[second] + each[2], each[3]) for each in terms]
        bends = [(a - d, b - e, c - f) for (a, b, c), (d, e, f) in combinations(slopes, 2)]
        for one, two in combinations((*edges, *bends), 2):
            corner = meeting(one, two)
            if corner is not None and 0 <= corner[1] <= corner[0] <= 1:
                s, c = corner
                yield (ONE, s, c) if first == 0 else (s, ONE, c)


def meeting(one: Line, two: Line) -> tuple[Fraction, Fraction] | None:
    """The s and c at which two lines meet; None for parallel ones."""
    (x, y, z), (u, v, w) = one, two
    scale = y * w - z * v
    return None if not scale else ((z * u - x * w) / scale, (x * v - y * u) / scale)


def exponent_along(term: Exponents, direction: Direction) -> Fraction:
    a, b, c = direction
    return term[0] * a + term[1] * b + term[2] * min(a, b) + term[3] * c


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
    a, b, c = direction
    rank = f", rank = {power_text('n', c)}" if c else ""
    if a == b:
        return f"rows = cols = n{rank}"
    if not b:
        return f"rows = n, cols fixed{rank}"
    if not a:
        return f"cols = n, rows fixed{rank}"
    return f"rows = {power_text('n', a)}, cols = {power_text('n', b)}{rank}"
