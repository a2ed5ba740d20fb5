"""Counterexamples made small: a case that refutes a claim in, a simpler one that still does out.

Greedy and deterministic: fewer steps, default hypers, fewer rows and columns, rounder numbers, as long as one of these
still refutes the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from optforge.compiler.verify.claims.examine import Counterexample, Examiner
from optforge.compiler.verify.claims.trial import Case
from optforge.compiler.verify.shared.gradients import Array
from optforge.compiler.verify.shared.hyper_values import HyperValues, Values
from optforge.compiler.verify.shared.shrink import shrink

ATTEMPTS = 400


def shrink_counterexample(counterexample: Counterexample, examine: Examiner, values: HyperValues) -> Counterexample:
    """The simplest counterexample that a limited number of attempts comes to."""
    attempts = iter(range(ATTEMPTS))

    def retry(simpler: Case) -> Counterexample | None:
        if next(attempts, None) is None or not values.holds(simpler.hypers):
            return None
        found = examine(simpler).counterexample
        return None if found is None else Counterexample(simpler, found.step, found.values)

    return shrink(counterexample, lambda found: simpler_cases(found, values.written), retry)


def simpler_cases(counterexample: Counterexample, defaults: Values) -> Iterator[Case]:
    """Cases that are simpler in one respect each, the largest cuts first."""
    case = counterexample.case
    yield from shorter_cases(case, counterexample.step)
    yield from smaller_cases(case)
    if any(case.hypers[name] != value for name, value in defaults.items()):
        yield replace(case, hypers={**case.hypers, **defaults})
    for name, value in defaults.items():
        if case.hypers[name] != value:
            yield replace(case, hypers={**case.hypers, name: value})
    for name, number in case.hypers.items():
        if name not in defaults and isinstance(number, float) and number > 1:
            yield from (replace(case, hypers={**case.hypers, name: less}) for less in (number // 2, number - 1))
    yield from plainer_cases(case)


def shorter_cases(case: Case, step: int) -> Iterator[Case]:
    """Without the steps after the failure, one of those before it, or an event."""
    if len(case.grads) > step:
        kept = tuple(firing for firing in case.firings if firing.step <= step)
        yield replace(case, grads=case.grads[:step], firings=kept)
    for index in range(len(case.grads) - 1):
        firings = tuple(
            replace(firing, step=firing.step - (firing.step > index + 1))
            for firing in case.firings
            if firing.step != index + 1
        )
        yield replace(case, grads=case.grads[:index] + case.grads[index + 1 :], firings=firings)
    for index in range(len(case.firings)):
        yield replace(case, firings=case.firings[:index] + case.firings[index + 1 :])


def smaller_cases(case: Case) -> Iterator[Case]:
    """Without one row or column."""
    for axis in (0, 1):
        for index in range(case.weight.shape[axis] if case.weight.shape[axis] > 1 else 0):
            change = without(index, axis)
            yield case.changed(change, change)


def without(index: int, axis: int) -> Callable[[Array], Array]:
    return lambda array: np.delete(array, index, axis=axis)


def plainer_cases(case: Case) -> Iterator[Case]:
    """With simple numbers: all of the weight or of a gradient at once, and then one by one."""
    simplest: tuple[Callable[[Array], Array], ...] = (np.zeros_like, np.ones_like, np.round, one_digit)
    for change in simplest:
        yield from differing(case, case.weight, change, lambda array: replace(case, weight=array))
        for index, grad in enumerate(case.grads):
            yield from differing(case, grad, change, with_gradient(case, index))
    for index, grad in enumerate(case.grads):
        for place in zip(*np.nonzero((grad != 0) & (grad != 1)), strict=True):
            for number in (0.0, 1.0, -1.0):
                yield from differing(case, grad, with_entry(place, number), with_gradient(case, index))
    for place in zip(*np.nonzero((case.weight != 0) & (case.weight != 1)), strict=True):
        for number in (0.0, 1.0, -1.0):
            yield from differing(
                case, case.weight, with_entry(place, number), lambda array: replace(case, weight=array)
            )


def differing(
    case: Case, old: Array, change: Callable[[Array], Array], rebuilt: Callable[[Array], Case]
) -> Iterator[Case]:
    """The changed case, if it is simpler: more zeros, or fewer digits."""
    new = change(old)
    if plainness(new) < plainness(old):
        yield rebuilt(new)


def plainness(array: Array) -> tuple[int, int, int]:
    """How much there is to read: entries that are not 0, those that are not 1 either, and digits."""
    shown = [f"{value:g}" if float(f"{value:g}") == value else f"{value!r}" for value in array.ravel().tolist()]
    return int((array != 0).sum() + (array < 0).sum()), int((array != 1).sum()), sum(map(len, shown))


def one_digit(array: Array) -> Array:
    return np.array([float(f"{value:.0e}") for value in array.ravel().tolist()]).reshape(array.shape)


def with_entry(place: tuple[int, ...], number: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        new = array.copy()
        new[place] = number
        return new

    return change


def with_gradient(case: Case, index: int) -> Callable[[Array], Case]:
    return lambda grad: replace(case, grads=(*case.grads[:index], grad, *case.grads[index + 1 :]))
