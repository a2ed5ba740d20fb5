"""What every generated optimizer must keep, whatever its equations: a checked file in, a finding for each property out.

The classes are made in memory and stepped in float64 on parameters of every role they take, with hypers drawn within
their conditions. This is the only part of the analysis that needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optforge.compiler.driver import Snapshot
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import calls_of, inputs_of
from optforge.compiler.ir.types import FULL
from optforge.compiler.load import module_for
from optforge.compiler.oracle.interpreter import is_turned
from optforge.compiler.verify.claims.cases import value_text
from optforge.compiler.verify.claims.report import Finding
from optforge.compiler.verify.claims.trial import EVENT_ARGUMENTS, draw_argument
from optforge.compiler.verify.shared.budget import Budget
from optforge.compiler.verify.shared.hyper_values import HyperValues, NoValues, Values
from optforge.compiler.verify.shared.verdicts import Refuted, Tested, Unknown, Verdict
from optforge.dsl import ast

STEPS = 3
CASES_PER_TRIAL = 20  # a trial steps many parameters at once, so there are fewer of them
ALONE_TOLERANCE = 1e-8  # of a step: batched products sum in another order
SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "matrix": ((4, 6), (6, 4), (4, 6), (3, 3), (4, 6)),
    "conv": ((4, 3, 2), (4, 3, 2)),
    "embedding": ((7, 4),),
    "head": ((7, 4),),
    "vector": ((5,), (6,), (5,)),
}


@dataclass(frozen=True, eq=False)
class ClassTrial:
    """A class with hypers, and for each parameter its role, its weight and its gradient at each step."""

    make: Callable[..., Any]
    declaration: ir.Optimizer
    hypers: Values
    roles: tuple[str, ...]
    weights: tuple[Any, ...]
    grads: tuple[tuple[Any, ...], ...]

    def run(self, order: tuple[int, ...], set_gradient: Callable[[Any, Any], None]) -> list[list[Any]]:
        """The weights of some parameters, given to the optimizer in this order, before and after each step."""
        import torch

        tensors = {index: torch.nn.Parameter(torch.tensor(self.weights[index])) for index in order}
        groups = [
            {"params": [tensors[index] for index in order if self.roles[index] == role], "rule": role}
            for role in dict.fromkeys(self.roles[index] for index in order)
        ]
        optimizer = self.make(groups, **self.hypers)
        history = [[tensors[index].detach().clone() for index in sorted(order)]]
        for step in range(STEPS):
            for index in order:
                tensors[index].grad = None
                set_gradient(tensors[index], torch.tensor(self.grads[step][index]))
            for event, arguments in calls_of(self.declaration.rules).items() if step == 0 else ():
                getattr(optimizer, event)(**{each.name: self.argument(event, each, tensors) for each in arguments})
            optimizer.step()
            history.append([tensors[index].detach().clone() for index in sorted(order)])
        return history

    def argument(self, event: str, argument: ir.Hyper, tensors: Mapping[int, Any]) -> Any:
        """A number, or a dictionary from the parameters whose rule takes it to what each is given."""
        import torch

        if argument.shape is None:
            return EVENT_ARGUMENTS[3]
        found = {}
        for index, tensor in tensors.items():
            rule = next(each for each in self.declaration.rules if self.roles[index] in each.roles)
            if any(each.name == event and argument.name in [a.name for a in each.parameters] for each in rule.events):
                random = np.random.default_rng(index)
                value = draw_argument(argument, random, seen_shape(tuple(tensor.shape), rule))
                is_full = argument.shape == FULL
                found[tensor] = torch.tensor(value).reshape(tensor.shape) if is_full else torch.tensor(value)
        return found

    @property
    def everyone(self) -> tuple[int, ...]:
        return tuple(range(len(self.roles)))


def seen_shape(shape: tuple[int, ...], rule: ir.Rule) -> tuple[int, ...]:
    """The rows and columns that a rule sees of a parameter."""
    sizes = shape[0], int(np.prod(shape[1:]))
    return sizes[::-1] if is_turned(shape, rule) else sizes


def set_whole(p: Any, grad: Any) -> None:
    p.grad = grad


def set_in_halves(p: Any, grad: Any) -> None:
    """The gradients of two losses, each half of the whole, as accumulation adds them up."""
    for _ in range(2):
        (p * (grad / 2)).sum().backward()


# Properties: each says what differs in a trial, None where nothing does


def gradients_untouched(trial: ClassTrial) -> str | None:
    kept: list[tuple[Any, Any]] = []

    def set_and_keep(p: Any, grad: Any) -> None:
        p.grad = grad
        kept.append((grad, grad.clone()))

    trial.run(trial.everyone, set_and_keep)
    changed = sum(not bool((grad == copy).all()) for grad, copy in kept)
    return f"{changed} of {len(kept)} gradients were written to" if changed else None


def same_in_any_order(trial: ClassTrial) -> str | None:
    one, two = (trial.run(order, set_whole) for order in (trial.everyone, trial.everyone[::-1]))
    return first_difference(trial, one, two, 0.0)


def same_when_accumulated(trial: ClassTrial) -> str | None:
    one, two = (trial.run(trial.everyone, gradient) for gradient in (set_whole, set_in_halves))
    return first_difference(trial, one, two, 0.0)


def same_alone(trial: ClassTrial) -> str | None:
    together = trial.run(trial.everyone, set_whole)
    alone = [trial.run((index,), set_whole) for index in trial.everyone]
    separate = [[run[step][0] for run in alone] for step in range(STEPS + 1)]
    return first_difference(trial, together, separate, ALONE_TOLERANCE)


def first_difference(trial: ClassTrial, one: list[list[Any]], two: list[list[Any]], tolerance: float) -> str | None:
    """The first parameter whose steps differ by more than a tolerance, relative to the step, and rounding."""
    for step in range(1, STEPS + 1):
        for index, (x, y) in enumerate(zip(one[step], two[step], strict=True)):
            size = float((x - one[step - 1][index]).abs().max())
            error = float((x - y).abs().max())
            allowed = tolerance * size + (2.0**-46 * float(x.abs().max()) if tolerance else 0.0)
            if error > allowed and error == error:
                shape = " x ".join(map(str, x.shape))
                return f"the {trial.roles[index]} parameter of shape {shape} differs by {error:.3g} at step {step}"
    return None


PROPERTIES: Mapping[str, Callable[[ClassTrial], str | None]] = {
    "gradients are not written to": gradients_untouched,
    "steps do not depend on the order of parameters": same_in_any_order,
    "two half gradients are one gradient": same_when_accumulated,
    "a parameter alone steps as among others": same_alone,
}


def class_findings(snapshot: Snapshot, budget: Budget) -> Iterator[Finding]:
    """The properties of each optimizer of a file."""
    items = snapshot.tree.items if snapshot.tree else ()
    spans = {item.name.name: item.name.span for item in items if isinstance(item, ast.Optimizer)}
    optimizers = [each for each in snapshot.require().declarations if isinstance(each, ir.Optimizer)]
    if not optimizers:
        return
    module = module_for(snapshot)
    for declaration in optimizers:
        for name, differs in PROPERTIES.items():
            verdict = decide_property(differs, getattr(module, declaration.name), declaration, budget)
            yield Finding(spans[declaration.name], declaration.name, name, verdict)


def decide_property(
    differs: Callable[[ClassTrial], str | None], make: Callable[..., Any], declaration: ir.Optimizer, budget: Budget
) -> Verdict:
    if differs is same_alone and has_totals(declaration):
        return Unknown("sums over all parameters are part of the method")
    if differs in (same_alone, same_in_any_order) and has_streams(declaration):
        return Unknown("random numbers follow from the place of a parameter among all")
    trials, values = -(-budget.examples // CASES_PER_TRIAL), HyperValues(declaration)
    for index in range(trials):
        try:
            trial = draw_trial(make, declaration, values, np.random.default_rng([budget.seed, index]))
        except NoValues:
            return Unknown("no hyperparameters that keep all conditions were found")
        problem = differs(trial)
        if problem is not None:
            hypers = ", ".join(f"{name} = {value_text(value)}" for name, value in trial.hypers.items())
            return Refuted((("hypers", hypers), ("found", problem)))
    return Tested(trials)


def has_totals(declaration: ir.Optimizer) -> bool:
    return any(stage.collectives for rule in declaration.rules for stage in rule.stages)


def has_streams(declaration: ir.Optimizer) -> bool:
    functions = [function for rule in declaration.rules for function in rule.functions]
    return any(node.key == ir.NOISE for function in functions for node in inputs_of(function))


def draw_trial(
    make: Callable[..., Any], declaration: ir.Optimizer, values: HyperValues, random: np.random.Generator
) -> ClassTrial:
    taken = {role for rule in declaration.rules for role in rule.roles}
    placed = [(role, shape) for role, shapes in SHAPES.items() if role in taken for shape in shapes]
    grads = tuple(tuple(random.standard_normal(shape) for _, shape in placed) for _ in range(STEPS))
    return ClassTrial(
        make,
        declaration,
        values.draw([hyper.name for hyper in declaration.hypers], random),
        tuple(role for role, _ in placed),
        tuple(random.standard_normal(shape) for _, shape in placed),
        grads,
    )
