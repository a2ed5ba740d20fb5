"""Cases and what a rule does in them: hypers, a weight and a stream of gradients in, the moments of a run out.

The float64 interpreter runs the rule, so no generated code takes part. A :class:`Moment` is one step: it evaluates
whatever a claim asks for with the values of that step. A schedule runs like a rule without a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import FULL, GRAMS, Dim
from optforge.compiler.oracle.interpreter import Evaluation, OracleParameter, fire_event, run_step
from optforge.compiler.verify.claims.questions import Subject
from optforge.compiler.verify.shared.gradients import Array, Random, Stream
from optforge.compiler.verify.shared.hyper_values import HyperValues, Values

SHAPES = ((3, 3), (2, 5), (5, 2), (1, 4), (4, 1), (1, 1), (6, 6), (3, 8), (8, 3))
STEPS = 6
SCHEDULE_STEPS = 45
EVENT_ARGUMENTS = (1.0, 2.0, 0.5, 16.0, 480.0)
ROUNDING = 2.0**-50  # what inputs are changed by to see how much of a result is rounding


@dataclass(frozen=True, eq=False)
class Firing:
    """An event before a step (counted from 1)."""

    step: int
    name: str
    arguments: Values
    grad: Array

    def changed(self, change: Callable[[Array], Array], given: Callable[[str, str, Array], Array]) -> Firing:
        """The same with its gradient, and what parameters are given, changed."""
        arguments = {
            name: given(self.name, name, value) if isinstance(value, np.ndarray) else value
            for name, value in self.arguments.items()
        }
        return replace(self, grad=change(self.grad), arguments=arguments)


@dataclass(frozen=True, eq=False)
class Case:
    """Everything that a run depends on."""

    hypers: Values
    weight: Array
    grads: tuple[Array, ...]
    stream: str
    firings: tuple[Firing, ...] = ()

    def changed(
        self,
        change: Callable[[Array], Array],
        weight: Callable[[Array], Array],
        given: Callable[[str, str, Array], Array] = lambda event, name, array: array,
    ) -> Case:
        """The case with every gradient, those of events too, and the weight changed, and what events are given."""
        firings = tuple(firing.changed(change, given) for firing in self.firings)
        return replace(
            self, weight=weight(self.weight), grads=tuple(change(grad) for grad in self.grads), firings=firings
        )

    def perturbed(self, seed: int) -> Case:
        """The case with every number changed by a few units of its last place."""
        random = np.random.default_rng(seed)

        def change(array: Array) -> Array:
            moved: Array = array * (1 + ROUNDING * random.uniform(-4, 4, array.shape))
            return moved

        return self.changed(change, change, lambda event, name, array: change(array))


@dataclass(eq=False)
class Moment:
    """One step of a run: its values, and the weight before and after it."""

    step: int
    evaluation: Evaluation
    before: Array
    after: Array


def draw_case(subject: Subject, values: HyperValues, random: Random, streams: Mapping[str, Stream]) -> Case:
    """A random case of a rule, schedule or penalty; gradients are those of one of the streams."""
    hypers = values.draw([hyper.name for hyper in subject.hypers], random)
    if isinstance(subject.declaration, ir.Schedule):
        return Case(hypers, np.zeros((1, 1)), (np.zeros((1, 1)),) * SCHEDULE_STEPS, "steps")
    shape = SHAPES[int(random.integers(len(SHAPES)))]
    weight = random.standard_normal(shape) * float(random.choice((1.0, 1.0, 1.0, 0.02, 30.0, 0.0)))
    if isinstance(subject.declaration, ir.Penalty):
        return Case(hypers, weight, (np.zeros(shape),), "weights")
    name = str(random.choice(list(streams)))
    steps = int(random.integers(1, STEPS + 1))
    firings = tuple(draw_firings(subject.watched, random, streams[name], shape, steps))
    return Case(hypers, weight, tuple(streams[name](random, shape, steps)), name, firings)


def draw_firings(rule: ir.Rule, random: Random, stream: Stream, shape: Any, steps: int) -> Iterator[Firing]:
    """Each event before the first step, mostly, and now and then before others."""
    for event in rule.events:
        for step, grad in enumerate(stream(random, shape, steps), start=1):
            if random.random() < (0.8 if step == 1 else 0.3):
                arguments: Values = {each.name: draw_argument(each, random, shape) for each in event.parameters}
                yield Firing(step, event.name, arguments, grad)


def draw_argument(argument: ir.Hyper, random: Random, shape: tuple[int, ...]) -> Any:
    """A number, or what a parameter of this shape is given; squares are second moments."""
    if argument.shape is None:
        return float(random.choice(EVENT_ARGUMENTS))
    rows, cols = shape[0], int(np.prod(shape[1:]))
    first, second = ({Dim.ROWS: rows, Dim.COLS: cols}.get(dim, 1) for dim in argument.shape)
    if argument.shape in GRAMS:
        seen = random.standard_normal((first + 1, first))
        return seen.T @ seen / len(seen)
    return random.standard_normal(shape if argument.shape == FULL else (first, second))


def run_case(rule: ir.Rule, case: Case) -> Iterator[Moment]:
    """The moments of a run; it ends early where a factorization has no value."""
    parameter = OracleParameter(case.weight, rule)
    with np.errstate(all="ignore"):
        for step, grad in enumerate(case.grads, start=1):
            try:
                for firing in (firing for firing in case.firings if firing.step == step):
                    fire_event([parameter], firing.name, [firing.grad], [case.hypers], firing.arguments)
                before = parameter.value
                (evaluation,) = run_step([parameter], [grad], [case.hypers])
            except np.linalg.LinAlgError:
                return
            yield Moment(parameter.steps, evaluation, before, parameter.value)
