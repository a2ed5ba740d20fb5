"""One claim in one case: whether it holds, does not, or cannot be told from rounding.

A comparison holds up to :data:`TOLERANCE` of the sizes of its terms. Where it does not, the case is run again with its
inputs changed by a few units of their last place: what such changes move as much is rounding, and decides
nothing. So a wrong claim is not excused by a wide tolerance, and a right one not refuted by an ill-conditioned step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import given_by
from optforge.compiler.ir.types import FULL, Dim
from optforge.compiler.oracle.interpreter import as_array, is_turned
from optforge.compiler.verify.claims.margins import Margins, comparisons
from optforge.compiler.verify.claims.questions import COMPARISON, Question
from optforge.compiler.verify.claims.trial import Case, Moment, run_case
from optforge.compiler.verify.shared.gradients import Array
from optforge.compiler.verify.shared.hyper_values import with_default_eps

TOLERANCE = 2.0**-40  # of the sizes of a comparison's terms: 8192 roundings of float64
ORTHOGONAL = 1e-7  # how far a singular value may be from 0 and 1, since iterations end
STEP_TOLERANCE = 1e-9  # of the largest entry of the steps so far
EPS_TOLERANCE = 1e-3  # what an eps may change of a step when gradients are of ordinary size
SPREAD = 64  # how many times what rounding does in a few tries it may do at worst
ORDINARY = 0.1  # the smallest entry of gradients that an eps does not change
FAR = 2.0**40  # gradients so large that no eps matters
SCALE = 2.0**7  # a power of two rounds nothing


@dataclass(frozen=True, eq=False)
class Counterexample:
    """A case in which a claim does not hold, the step, and what shows it."""

    case: Case
    step: int
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a case says of a claim: nothing, that it holds, or that it does not."""

    decided: bool
    counterexample: Counterexample | None = None


Examiner: TypeAlias = Callable[[Case], Outcome]


def examiner_for(question: Question) -> Examiner | None:
    """How to look at a case with regard to this claim; None for claims that no run can decide."""
    match question.claim.form:
        case "comparison" | "orthogonal":
            return lambda case: examine_values(question, case)
        case "scale_free":
            return lambda case: examine_scale(question, case)
        case "equivariant":
            return lambda case: examine_permutation(question, case)
        case _:
            return None


# Values at each step


def examine_values(question: Question, case: Case) -> Outcome:
    rule = question.subject.watched
    promise = next(output.value for output in rule.update.outputs if output.name == question.output)
    is_comparison = question.claim.form == COMPARISON
    decided = False
    for moment in run_case(rule, case):
        margin = evaluate(margin_of if is_comparison else orthogonality, moment, promise)
        if margin is None or np.isnan(margin).all():
            continue
        if not (margin < -TOLERANCE).any():
            decided = True
            continue
        without_rounding = relax_margin if is_comparison else relax_orthogonality
        margin = evaluate(without_rounding, question, case, moment, promise)
        if margin is not None and (margin < -TOLERANCE).any():
            worst = np.unravel_index(int(np.nanargmin(margin)), margin.shape)
            return Outcome(
                True, Counterexample(case, moment.step, tuple(shown_values(question, moment, promise, worst)))
            )
    return Outcome(decided)


def evaluate(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What is measured; None where a factorization has no value."""
    try:
        with np.errstate(all="ignore"):
            return measure(*arguments)
    except np.linalg.LinAlgError:
        return None


def margin_of(moment: Moment, promise: ir.Expr) -> Any:
    return Margins(moment.evaluation).margin(promise)


def orthogonality(moment: Moment, promise: ir.Expr) -> Any:
    """How much closer the singular values are to 0 or 1 than they must be; NaN for a matrix of zeros."""
    x = as_array(moment.evaluation.value(promise))
    if not np.isfinite(x).all() or not x.any():
        return np.full((1, 1), np.nan)
    values = np.linalg.svd(x, compute_uv=False)
    return np.full((1, 1), ORTHOGONAL - np.minimum(abs(values), abs(values - 1)).max())


def relax_margin(question: Question, case: Case, moment: Moment, promise: ir.Expr) -> Any:
    """The margin where each comparison may be missed by as much as rounding moves its sides."""
    found = {node: Margins(moment.evaluation).gap(node) for node in comparisons(promise)}
    slack: dict[ir.Expr, Any] = {node: np.zeros(np.shape(gap)) for node, gap in found.items()}
    for other in perturb_moments(question, case, moment.step):
        for node, gap in found.items():
            slack[node] = np.maximum(slack[node], SPREAD * abs(Margins(other.evaluation).gap(node) - gap))
    return Margins(moment.evaluation, slack).margin(promise)


def relax_orthogonality(question: Question, case: Case, moment: Moment, promise: ir.Expr) -> Any:
    found = orthogonality(moment, promise)
    others = [orthogonality(other, promise) for other in perturb_moments(question, case, moment.step)]
    return found + SPREAD * np.max([abs(other - found) for other in (found, *others)], axis=0)


def perturb_moments(question: Question, case: Case, step: int) -> Iterator[Moment]:
    """The same step after a few runs with inputs that are rounded differently."""
    for seed in (1, 2, 3):
        for moment in run_case(question.subject.watched, case.perturbed(seed)):
            if moment.step == step:
                yield moment


def shown_values(question: Question, moment: Moment, promise: ir.Expr, worst: Any) -> Iterator[tuple[str, str]]:
    """Both sides of each comparison where the claim is furthest from holding."""
    if question.claim.form != COMPARISON:
        values = np.linalg.svd(as_array(moment.evaluation.value(promise)), compute_uv=False)
        yield f"singular values of {promise.span.text}", ", ".join(f"{value:.6g}" for value in values)
        return
    seen: set[str] = set()
    for node in comparisons(promise):
        for side in node.arguments:
            text = " ".join(side.span.text.split())
            if text not in seen and not isinstance(side, ir.Literal):
                seen.add(text)
                yield text, element_text(moment.evaluation.value(side), worst)


def element_text(value: Any, place: Any) -> str:
    """An element of an array that spreads, with its place where there are several."""
    array = as_array(value)
    if not np.issubdtype(array.dtype, np.number):
        return str(array.item()) if array.size == 1 else str(bool(array[place]))
    if array.size == 1:
        return f"{float(array.item()):.12g}"
    row, col = (int(index) if size > 1 else 0 for index, size in zip(place, array.shape, strict=True))
    return f"{float(array[row, col]):.12g} at [{row}, {col}]"


# Two runs side by side


def examine_scale(question: Question, case: Case) -> Outcome:
    """Steps on gradients times a constant: exactly alike far from every eps, and up to eps elsewhere."""
    case = replace(case, hypers=with_default_eps(question.subject.declaration, case.hypers))
    decided = False
    for start, tolerance in ((FAR, STEP_TOLERANCE), (ordinary_scale(case), EPS_TOLERANCE)):
        base, other = case.changed(times(start), keep), case.changed(times(start * SCALE), keep)
        outcome = compared(question, base, other, tolerance, keep)
        if outcome.counterexample is not None:
            factors = (("gradients times", f"{start:g}, and {start * SCALE:g}"), *outcome.counterexample.values)
            return Outcome(True, Counterexample(case, outcome.counterexample.step, factors))
        decided |= outcome.decided
    return Outcome(decided)


def ordinary_scale(case: Case) -> float:
    """What makes no gradient so small that an eps would show."""
    entries = np.concatenate([grad.ravel() for grad in (*case.grads, *(firing.grad for firing in case.firings))])
    smallest = abs(entries[entries != 0]).min(initial=ORDINARY)
    return float(max(1.0, ORDINARY / smallest))


def examine_permutation(question: Question, case: Case) -> Outcome:
    """The step with the rows (or columns) in another order is the step in that order."""
    promise = question.claim.promise
    axis = 0 if isinstance(promise, ir.Input) and promise.name == "rows" else 1
    axis = 1 - axis if is_turned(case.weight.shape, question.subject.watched) else axis
    order = np.roll(np.arange(case.weight.shape[axis])[::-1], 1)
    if (order == np.arange(len(order))).all():
        return Outcome(False)

    def permute(array: Array) -> Array:
        return np.take(array, order, axis=axis)

    side = Dim.ROWS if isinstance(promise, ir.Input) and promise.name == "rows" else Dim.COLS
    shapes = {(e.name, each.name): each.shape for e in question.subject.watched.events for each in given_by(e)}

    def permute_given(event: str, name: str, array: Array) -> Array:
        shape = shapes[event, name]
        if shape is None or shape == FULL:
            return permute(array)
        for at in (at for at, dim in enumerate(shape) if dim is side):
            array = np.take(array, order, axis=at)
        return array

    return compared(question, case, case.changed(permute, permute, permute_given), STEP_TOLERANCE, permute)


def times(factor: float) -> Callable[[Array], Array]:
    return lambda array: factor * array


def keep(array: Array) -> Array:
    return array


def compared(
    question: Question, base: Case, other: Case, tolerance: float, expected: Callable[[Array], Array]
) -> Outcome:
    """Whether the steps of the other case are those of the base, changed as expected."""
    rule = question.subject.watched
    decided, size = False, 0.0
    for one, two in zip(run_case(rule, base), run_case(rule, other), strict=False):
        before, after = expected(one.after - one.before), two.after - two.before
        size = max(size, abs(before).max(), abs(after).max())  # a short step may follow from long ones that cancel
        if not np.isfinite(size):
            return Outcome(decided)
        error = abs(after - before)
        allowed = tolerance * size + 2.0**-48 * max(abs(one.before).max(), abs(one.after).max())
        decided |= bool(size > 0)
        if not (error > allowed).any():
            continue
        step = one.after - one.before
        spread = [abs(other.after - other.before - step).max() for other in perturb_moments(question, base, one.step)]
        if not (error > allowed + SPREAD * max(spread, default=np.nan)).any():
            return Outcome(decided)  # what follows starts from two different weights
        place = np.unravel_index(int(error.argmax()), error.shape)
        values = (("one step", element_text(before, place)), ("the other", element_text(after, place)))
        return Outcome(True, Counterexample(base, one.step, values))
    return Outcome(decided)
