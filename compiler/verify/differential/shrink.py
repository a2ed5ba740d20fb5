"""A scenario that fails made as small as it gets, by leaving out or simplifying one part after the other.

Works on the plain data, so that a parameter goes with its gradients of all steps, and a step with its changes; what
"fails" means is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from optforge.compiler.verify.differential.plan import Gradient, Group, Scenario, Step
from optforge.compiler.verify.differential.scenarios import SHAPES, Space
from optforge.compiler.verify.shared.hyper_values import Hyper
from optforge.compiler.verify.shared.shrink import shrink

PLAIN = Gradient()


def shrink_scenario(scenario: Scenario, space: Space, fails: Callable[[Scenario], bool]) -> Scenario:
    """A failing scenario of which no simpler neighbour fails; ``fails`` may end it by saying no to everything."""

    def retry(simpler: Scenario) -> Scenario | None:
        return simpler if is_valid(simpler, space) and fails(simpler) else None

    return shrink(scenario, lambda found: (each for each in neighbours(found, space) if each != found), retry)


def is_valid(scenario: Scenario, space: Space) -> bool:
    """Whether the hypers satisfy the conditions at the start and after every change."""
    current = [dict(group.hypers) for group in scenario.groups]
    if not all(space.values.holds(hypers) for hypers in current):
        return False
    for step in scenario.steps:
        for hypers, changes in zip(current, step.changes, strict=False):
            hypers.update(changes)
            if not space.values.holds(hypers):
                return False
    return True


def neighbours(scenario: Scenario, space: Space) -> Iterator[Scenario]:
    """Simpler scenarios, those that leave out most first."""
    yield from (replace(scenario, steps=scenario.steps[:end]) for end in range(1, len(scenario.steps)))
    yield from (without_group(scenario, number) for number in range(len(scenario.groups)) if len(scenario.groups) > 1)
    yield from (without_parameter(scenario, number) for number in range(len(scenario.shapes)))
    yield from (replace(scenario, steps=drop(scenario.steps, n)) for n in range(len(scenario.steps) - 1))
    yield replace(scenario, order=tuple(tuple(range(len(group.shapes))) for group in scenario.groups))
    yield replace(scenario, dtype=space.dtypes[0])
    yield from simpler_groups(scenario, space)
    yield from simpler_steps(scenario)
    yield replace(scenario, seed=0)


def drop(items: tuple[Any, ...], number: int) -> tuple[Any, ...]:
    return (*items[:number], *items[number + 1 :])


def exchange(items: tuple[Any, ...], number: int, item: Any) -> tuple[Any, ...]:
    return (*items[:number], item, *items[number + 1 :])


def without_group(scenario: Scenario, number: int) -> Scenario:
    owners = scenario.owners

    def kept(step: Step) -> Step:
        gradients = tuple(g for g, owner in zip(step.gradients, owners, strict=True) if owner != number)
        return replace(step, gradients=gradients, changes=drop(step.changes, number))

    steps = tuple(kept(step) for step in scenario.steps)
    return replace(scenario, groups=drop(scenario.groups, number), steps=steps, order=drop(scenario.order, number))


def without_parameter(scenario: Scenario, number: int) -> Scenario:
    """Without one parameter of a group that has several."""
    owner = scenario.owners[number]
    group = scenario.groups[owner]
    place = number - scenario.owners.index(owner)
    if len(group.shapes) == 1:
        return scenario
    smaller = replace(group, shapes=drop(group.shapes, place))
    order = tuple(index - (index > place) for index in scenario.order[owner] if index != place)
    steps = tuple(replace(step, gradients=drop(step.gradients, number)) for step in scenario.steps)
    groups = exchange(scenario.groups, owner, smaller)
    return replace(scenario, groups=groups, steps=steps, order=exchange(scenario.order, owner, order))


def simpler_groups(scenario: Scenario, space: Space) -> Iterator[Scenario]:
    """Default hypers, all at once or one by one; normal weights; the first shape of the role."""
    for number, group in enumerate(scenario.groups):
        for simpler in simpler_group(group, space):
            yield replace(scenario, groups=exchange(scenario.groups, number, simpler))


def simpler_group(group: Group, space: Space) -> Iterator[Group]:
    defaults: Mapping[str, Hyper] = space.values.defaults
    yield replace(group, hypers=dict(defaults))
    for name, value in group.hypers.items():
        if value != defaults[name]:
            yield replace(group, hypers={**group.hypers, name: defaults[name]})
    yield replace(group, weights="normal")
    smallest = SHAPES[group.role or space.roles[0]][0]
    for number, shape in enumerate(group.shapes):
        if shape != smallest:
            yield replace(group, shapes=exchange(group.shapes, number, smallest))


def simpler_steps(scenario: Scenario) -> Iterator[Scenario]:
    for number, step in enumerate(scenario.steps):
        for simpler in simpler_step(step):
            yield replace(scenario, steps=exchange(scenario.steps, number, simpler))


def simpler_step(step: Step) -> Iterator[Step]:
    """Nothing before the step; plain gradients, all at once or one by one."""
    yield replace(step, saved=False)
    yield replace(step, closure=False)
    yield replace(step, events=())
    yield replace(step, changes=())
    for number in range(len(step.changes)):
        yield replace(step, changes=exchange(step.changes, number, {}))
    yield replace(step, gradients=(PLAIN,) * len(step.gradients))
    for number, gradient in enumerate(step.gradients):
        yield replace(step, gradients=exchange(step.gradients, number, PLAIN))
        yield replace(step, gradients=exchange(step.gradients, number, replace(gradient, exponent=0)))
