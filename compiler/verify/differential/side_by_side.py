"""A scenario run on a generated class and on another: the first difference, or None.

After every step the weights are compared, relative to the step that ours has taken (`tolerance.py` says how close they
must be); the other must also leave gradients as they are, return the closure's loss, and go on from its checkpoint.
Two elements that are both NaN or infinite count as equal, whichever they are. A parameter that has become non-finite,
in its weight or a state, was compared in that step and is not any more: how long an average stays infinite depends
on how it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from optforge.compiler.ir import nodes as ir
from optforge.compiler.verify.differential import data
from optforge.compiler.verify.differential.names import STATES, Names
from optforge.compiler.verify.differential.plan import Scenario, Step
from optforge.compiler.verify.differential.tolerance import Bound, rounding_of, size
from optforge.compiler.verify.shared.hyper_values import Hyper

Grads = Sequence[data.Array | None]
KEEPS_GRADIENTS = "kept_gradients"


@dataclass(frozen=True)
class Pair:
    """Who runs: a generated class with its program, and a factory called as ``factory(params, **hypers)``.

    ``role_key`` is the key of a parameter group under which the other is told a role; ``tolerance``, relative to the
    step, replaces the derived one; ``without`` are abilities that the other does not claim.
    """

    ours: type
    declaration: ir.Optimizer
    factory: Callable[..., Any]
    names: Names
    role_key: str | None = None
    tolerance: float | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StateDifference:
    """The first state of the same name that is not the same on both sides."""

    name: str
    step: int
    parameter: int
    relative: float


@dataclass(frozen=True)
class Difference:
    """Where the other does something else: ``what`` in one word, the rest in ``detail``.

    For weights: the element that differs most, both values, and difference and bound relative to the step.
    """

    what: str
    step: int
    detail: str = ""
    parameter: int = 0
    element: int = 0
    values: tuple[float, float] = (0.0, 0.0)
    relative: float = 0.0
    bound: float = 0.0
    state: StateDifference | None = None

    def __str__(self) -> str:
        if self.what != "weights":
            return f"step {self.step}: {self.detail}"
        ours, theirs = self.values
        text = (
            f"step {self.step}, parameter {self.parameter}, element {self.element}: the spec gives {ours!r}, the other "
            f"{theirs!r}; that is {self.relative:.3g} of the step, and rounding explains {self.bound:.2g}"
        )
        if self.state is None:
            return f"{text}\nno state of the same name differs before"
        first = self.state
        place = f"step {first.step}, parameter {first.parameter}"
        return (
            f"{text}\nthe first stream that differs is `{first.name}`, at {place}: by {first.relative:.3g} of its size"
        )


class SpecRefuses(Exception):
    """The spec itself has no value here (a division by zero of hypers): nothing to compare."""


class OtherRaises(Exception):
    """The other optimizer raised an exception."""


class Runner:
    """One optimizer with its parameters, by their numbers in the scenario."""

    def __init__(self, scenario: Scenario, weights: Sequence[data.Array]) -> None:
        self.scenario = scenario
        self.dtype: torch.dtype = getattr(torch, scenario.dtype)
        self.params = [nn.Parameter(data.tensor(each, self.dtype)) for each in weights]
        self.optimizer: Any = self.made()

    def made(self) -> Any:
        raise NotImplementedError

    def change(self, group: int, name: str, value: Hyper) -> None:
        raise NotImplementedError

    def places(self, group: int) -> Sequence[int]:
        """The numbers of a group's parameters, in the order in which the optimizer has them."""
        return [number for number, owner in enumerate(self.scenario.owners) if owner == group]

    def set_gradients(self, step: Step, grads: Grads) -> None:
        for p, grad, wanted in zip(self.params, grads, step.gradients, strict=True):
            p.grad = None if grad is None else data.tensor(grad, self.dtype, wanted.kind)

    def run(self, step: Step, grads: Grads) -> str:
        """One step with all that comes before it; says what is wrong with what it returns or leaves behind."""
        for group, changes in enumerate(step.changes):
            for name, value in changes.items():
                self.change(group, name, value)
        self.set_gradients(step, grads)
        for event, arguments in step.events:
            getattr(self.optimizer, event)(**arguments)
        if not step.closure:
            self.optimizer.step()
            return ""
        return self.run_closure(step, grads)

    def run_closure(self, step: Step, grads: Grads) -> str:
        loss = torch.tensor(0.5)

        def closure() -> Tensor:
            self.set_gradients(step, grads)
            return loss

        for p in self.params:
            p.grad = None
        found = self.optimizer.step(closure)
        same = found is loss or (isinstance(found, Tensor | float) and float(found) == float(loss))
        return "" if same else f"step(closure) returns {found!r} instead of the closure's loss"


class OurRunner(Runner):
    """The generated class; a twin has hypers that are one rounding away as well."""

    def __init__(self, pair: Pair, scenario: Scenario, weights: Sequence[data.Array], away: float = 0.0) -> None:
        self.pair, self.away = pair, away
        super().__init__(scenario, weights)

    def made(self) -> Any:
        groups = [
            {"params": [self.params[i] for i in self.places(number)], **self.moved(group.hypers)}
            | ({} if group.role is None else {"rule": group.role})
            for number, group in enumerate(self.scenario.groups)
        ]
        return self.pair.ours(groups, **self.moved(self.scenario.groups[0].hypers))

    def change(self, group: int, name: str, value: Hyper) -> None:
        self.optimizer.param_groups[group] |= self.moved({name: value})

    def moved(self, hypers: Mapping[str, Hyper]) -> dict[str, Hyper]:
        """Numbers that are no integers become larger by the twin's distance, which keeps their order."""
        return {
            name: value * (1 + self.away) if isinstance(value, float) and not value.is_integer() else value
            for name, value in hypers.items()
        }


class OtherRunner(Runner):
    """The other class, with names of its own and its parameters in the scenario's order."""

    def __init__(self, pair: Pair, scenario: Scenario, weights: Sequence[data.Array]) -> None:
        self.pair = pair
        super().__init__(scenario, weights)

    def made(self) -> Any:
        translated = self.pair.names.translated
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(self.scenario.groups):
            params = data.put_in_order(self.params, self.places(number))
            role = {self.pair.role_key: group.role} if self.pair.role_key and group.role else {}
            groups.append({"params": params, **translated(group.hypers), **role})
        alone = len(groups) == 1 and not self.pair.role_key
        first = translated(self.scenario.groups[0].hypers)
        return self.pair.factory(groups[0]["params"] if alone else groups, **first)

    def places(self, group: int) -> Sequence[int]:
        return self.scenario.places(group)

    def change(self, group: int, name: str, value: Hyper) -> None:
        self.pair.names.change(self.optimizer.param_groups[group], name, value)

    def reload(self) -> None:
        """A new optimizer on new tensors, with the weights and the checkpoint of the old one."""
        checkpoint = deepcopy(self.optimizer.state_dict())
        self.params = [nn.Parameter(p.detach().clone()) for p in self.params]
        self.optimizer = self.made()
        self.optimizer.load_state_dict(checkpoint)

    def changed_gradient(self, step: Step, grads: Grads) -> str:
        for number, (p, grad) in enumerate(zip(self.params, grads, strict=True)):
            if grad is None:
                continue
            before = data.tensor(grad, self.dtype)
            if p.grad is None or not torch.equal(p.grad.nan_to_num(), before.nan_to_num()):
                return f"the gradient of parameter {number} is not what it was before the step"
        return ""


class SideBySide:
    """Both sides and the twin, in step."""

    def __init__(self, pair: Pair, scenario: Scenario) -> None:
        self.pair, self.scenario = pair, scenario
        dtype = getattr(torch, scenario.dtype)
        self.eps = torch.finfo(dtype).eps
        self.random = np.random.default_rng(scenario.seed)
        weights = data.weights(scenario)
        with spec_may_refuse():
            self.ours = OurRunner(pair, scenario, weights)
            self.twin = OurRunner(pair, scenario, self.near(weights), self.eps)
        length = max(int(np.prod(shape)) for shape in scenario.shapes)
        rounding = rounding_of(pair.declaration, scenario.groups[0].hypers, length)
        self.bounds = [Bound(rounding, dtype) for _ in weights]
        self.watched = set(range(len(weights)))
        kinds = {wanted.kind for step in scenario.steps for wanted in step.gradients}
        self.stays_finite = not kinds & {"inf", "nan"}

    def near(self, arrays: Grads) -> list[Any]:
        return [None if each is None else data.disturb(each, self.eps, self.random) for each in arrays]

    def run(self) -> Difference | None:
        number = 0
        try:
            with other_may_raise():
                theirs = OtherRunner(self.pair, self.scenario, data.weights(self.scenario))
            grads = data.gradients(self.scenario)
            for number, (step, row) in enumerate(zip(self.scenario.steps, grads, strict=True), start=1):
                difference = self.advance(theirs, number, step, row)
                if difference is not None:
                    return difference
        except OtherRaises as problem:
            return Difference("error", number, f"the other optimizer raises {problem}")
        return None

    def advance(self, theirs: OtherRunner, number: int, step: Step, grads: Grads) -> Difference | None:
        before = [p.detach().clone() for p in self.ours.params]
        with spec_may_refuse():
            self.ours.run(step, grads)
            self.twin.run(step, self.near(grads))
        with other_may_raise():
            if step.saved:
                theirs.reload()
            complaint = theirs.run(step, grads)
        if complaint:
            return Difference("loss", number, complaint)
        if KEEPS_GRADIENTS not in self.pair.without:
            complaint = theirs.changed_gradient(step, grads)
            if complaint:
                return Difference("gradient", number, complaint)
        return self.compare(theirs, number, before)

    def compare(self, theirs: OtherRunner, number: int, before: Sequence[Tensor]) -> Difference | None:
        for index in sorted(self.watched):
            ours, other, twin = (side.params[index].detach() for side in (self.ours, theirs, self.twin))
            taken = ours - before[index]
            self.bounds[index].grow(ours, taken)
            allowed = self.bounds[index].value(ours, twin)
            if self.pair.tolerance is not None:
                allowed = max(allowed, self.pair.tolerance * self.bounds[index].path)
            found = first_difference(ours, other, allowed)
            if found is not None:
                return self.described(number, index, found, ours, other, taken, allowed)
            if not self.stays_finite and not self.is_finite(index):
                self.watched.discard(index)
        return None

    def described(
        self, number: int, index: int, element: int, ours: Tensor, other: Tensor, taken: Tensor, allowed: float
    ) -> Difference:
        values = float(ours.flatten()[element]), float(other.flatten()[element])
        scale = size(taken) or float("nan")
        relative = abs(values[1] - values[0]) / scale
        return Difference("weights", number, "", index, element, values, relative, allowed / scale)

    def is_finite(self, index: int) -> bool:
        state = self.ours.optimizer.state[self.ours.params[index]].values()
        tensors = [self.ours.params[index], *(value for value in state if isinstance(value, Tensor))]
        return all(bool(each.isfinite().all()) for each in tensors)


class Trace(SideBySide):
    """Both sides with their states compared as well, which takes as long as all the rest."""

    state: StateDifference | None = None

    def compare(self, theirs: OtherRunner, number: int, before: Sequence[Tensor]) -> Difference | None:
        self.state = self.state or next(self.state_differences(theirs, number), None)
        found = super().compare(theirs, number, before)
        return found and replace(found, state=self.state)

    def state_differences(self, theirs: OtherRunner, number: int) -> Iterator[StateDifference]:
        """States that both sides keep under one name, or under torch's, and that are not the same."""
        for index in sorted(self.watched):
            own = self.ours.optimizer.state[self.ours.params[index]]
            twin = self.twin.optimizer.state[self.twin.params[index]]
            other = theirs.optimizer.state.get(theirs.params[index], {})
            for name, value in own.items():
                found = next((other[key] for key in (name, *STATES.get(name, ())) if key in other), None)
                if not comparable(found, value):
                    continue
                difference = found.reshape(value.shape) - value
                allowed = self.bounds[index].rounding.operations * (size(twin[name] - value) + self.eps * size(value))
                if size(difference) > allowed:
                    yield StateDifference(name, number, index, size(difference) / (size(value) or float("nan")))


def comparable(theirs: Any, ours: Any) -> TypeGuard[Tensor]:
    return isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.numel() == theirs.numel()


def first_difference(ours: Tensor, theirs: Tensor, allowed: float) -> int | None:
    """The element that differs most, if that is more than what is allowed or finite on one side only."""
    if ours.shape != theirs.shape:
        return 0
    one_sided = (ours.isfinite() != theirs.isfinite()).flatten()
    if bool(one_sided.any()) and allowed < float("inf"):
        return int(one_sided.int().argmax())
    distance = (theirs - ours).abs().nan_to_num(0.0, 0.0).flatten()
    if not distance.numel():
        return None
    worst = int(distance.argmax())
    return worst if float(distance[worst]) > allowed else None


@contextmanager
def spec_may_refuse() -> Iterator[None]:
    """What the generated class raises on a scenario's hypers is a :class:`SpecRefuses`."""
    try:
        yield
    except (ArithmeticError, ValueError) as problem:
        raise SpecRefuses(f"{type(problem).__name__}: {problem}") from problem


@contextmanager
def other_may_raise() -> Iterator[None]:
    """Whatever the other optimizer raises is a finding."""
    try:
        yield
    except Exception as problem:
        raise OtherRaises(f"{type(problem).__name__}: {problem}") from problem


def run_both(pair: Pair, scenario: Scenario) -> Difference | None:
    """The first difference, or None; raises :class:`SpecRefuses` where the spec has no value."""
    return SideBySide(pair, scenario).run()


def explain(pair: Pair, scenario: Scenario) -> Difference | None:
    """As :func:`run_both`, with the first state that differs."""
    return Trace(pair, scenario).run()
