"""The runs of an optimizer on parameters of many shapes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as numbered
from types import ModuleType
from typing import Any

import numpy as np
import torch

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import calls_of, given_by
from optforge.compiler.ir.names import FunctionName, function_text
from optforge.compiler.ir.types import FULL, Kind, Phase, Type
from optforge.compiler.oracle import interpreter as interpret
from tools.programs.choices import chosen_shapes
from tools.programs.differential import (
    SMALLEST_STEP,
    Array,
    Compiled,
    Difference,
    hyper_values,
    is_close,
    is_determined,
    require_close,
    require_same_function,
    size,
)
from tools.programs.programs import Trial
from tools.programs.specials import Specials, has_average, is_finite, multiplies_matrices

FEWEST_STEPS = 2  # every second program takes one more


class Undetermined(Exception):
    """Rounding decides what a step does."""


ForOracle = tuple[list[interpret.OracleParameter], list[Array | None], list[Mapping[str, Any]]]


@dataclass
class Placed:
    """One parameter everywhere: in the oracle and its twin, and in each generated optimizer.

    ``largest`` is the largest weight before a step so far, whose rounding later ones carry on; ``doubt`` is a
    difference in states, which the next step has to excuse.
    """

    label: str
    rule: ir.Rule
    hypers: Mapping[str, Any]
    oracle: interpret.OracleParameter
    twin: interpret.OracleParameter
    tensors: tuple[torch.nn.Parameter, ...]
    has_average: bool
    grad: Array | None = None
    shaken: Array | None = None
    before: Array = field(default_factory=lambda: np.zeros(0))
    largest: float = 0.0
    doubt: Difference | None = None

    @property
    def is_lost(self) -> bool:
        return not is_finite(self.oracle.weight)


class OptimizerTrial:
    """Steps and events, with what must agree checked after each."""

    def __init__(
        self,
        compiled: Compiled,
        trial: Trial,
        declaration: ir.Optimizer,
        seed: int,
        strategies: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.compiled, self.trial, self.declaration = compiled, trial, declaration
        self.given = [known_hypers(declaration, group) for group in trial.groups]
        self.random = np.random.default_rng(seed)
        self.steps = FEWEST_STEPS + seed % 2
        functions = [function for rule in declaration.rules for function in rule.functions]
        self.specials = Specials(seed, self.steps, may_be_huge=not multiplies_matrices(functions))
        self.shapes = chosen_shapes(seed)
        *_, (_, final) = compiled.versions(trial.name)
        self.averaging = {rule.name for rule in final.rules if has_average(rule.functions)}
        self.ways: list[tuple[ModuleType, dict[str, Any]]] = [(compiled.module, {}), (compiled.plain_module, {})]
        self.ways += [(compiled.module, strategy) for strategy in strategies]
        self.numbers = numbered()  # of the parameters, in the order of the groups
        groups = [group for index in range(len(self.given)) for group in self.grouped(index)]
        self.placed = [each for _, placed in groups for each in placed]
        self.optimizers: list[Any] = []
        for way, (module, strategy) in enumerate(self.ways):
            cls = getattr(module, trial.name)
            own = [
                {"params": [each.tensors[way] for each in placed], **constructor_defaults(cls), **options}
                for options, placed in groups
            ]
            self.optimizers.append(cls(own, **self.given[0], **strategy))
        self.calls = calls_of(declaration.rules)
        events = [event for rule in type(self.optimizers[0]).RULES for event in rule.events]
        self.undoing = {event.undoes: event.name for event in events if event.undoes}
        moving = {event.name for event in events if "weight" in event.kernel.outputs}
        self.moving = moving - {*self.undoing, *self.undoing.values()}
        self.in_place: set[str] = set()  # the events whose weights stand where those of training belong

    def grouped(self, index: int) -> Iterator[tuple[dict[str, Any], list[Placed]]]:
        """The options and parameters of the groups that have the hypers of one trial group: one group for each role."""
        given, stride = self.given[index], len(self.given)
        for rule in self.declaration.rules:
            for role in rule.roles:
                placed = [self.place(rule, role, shape, given) for shape in self.shapes[role][index::stride]]
                if placed:
                    yield {"rule": role, **given}, placed

    def place(self, rule: ir.Rule, role: str, shape: tuple[int, ...], given: Mapping[str, Any]) -> Placed:
        weight = self.data(shape)
        tensors = tuple(torch.nn.Parameter(torch.tensor(weight)) for _ in self.ways)
        values = hyper_values(self.declaration, given)
        label, number = f"{role} parameter {shape}", next(self.numbers)
        oracle, twin = (interpret.OracleParameter(weight, rule, number) for _ in range(2))
        return Placed(label, rule, values, oracle, twin, tensors, rule.name in self.averaging, before=weight)

    def data(self, shape: tuple[int, ...]) -> Array:
        return np.clip(self.random.standard_normal(shape), -3, 3)

    def run(self) -> None:
        for step in range(1, self.steps + 1):
            self.set_gradients(step)
            if step == 2:
                self.compare_passes()
            try:
                self.advance(step)
            except Undetermined:
                return
            except Difference:
                self.compare_passes()  # a pass that is to blame is the better answer
                raise

    def set_gradients(self, step: int, every: bool = False) -> None:
        """New gradients; some are missing unless it says ``every``."""
        for each in self.placed:
            each.grad = None if not every and self.random.random() < 0.1 else self.data(each.oracle.shape)
        if step == self.specials.step:
            self.specials.spoil([each.grad for each in self.placed if each.grad is not None])
        for each in self.placed:
            each.shaken = None if each.grad is None else self.specials.shaken(each.grad)
            for tensor in each.tensors:
                tensor.grad = None if each.grad is None else torch.tensor(each.grad)

    def advance(self, step: int) -> None:
        """Events now and then, and a step; none of weights that an event has only put there to be looked at."""
        for name in self.calls:
            if self.random.random() < 0.4 and self.is_due(name):
                self.fire(step, name)
        for name in sorted(self.in_place):
            self.fire(step, self.undoing[name])
        self.note_weights()
        for optimizer in self.optimizers:
            optimizer.step()
        interpret.run_step(*self.for_oracle())
        if self.specials:
            interpret.run_step(*self.for_twin())
            self.require_determined()
            self.settle_doubts()
        self.compare(f"step {step}")

    def is_due(self, name: str) -> bool:
        shown = next((shown for shown, undoing in self.undoing.items() if undoing == name), None)
        if name in self.moving and self.in_place:
            return False
        return name not in self.in_place if shown is None else shown in self.in_place

    def fire(self, step: int, name: str) -> None:
        self.in_place = {shown for shown in self.in_place if self.undoing[shown] != name}
        self.in_place |= {name} & self.undoing.keys()
        if self.reading_depends_on_passes(name):
            self.set_gradients(step, every=True)
        drawn = self.trial.events.get(name, {})  # an event that changes nothing is left out, and so are its arguments
        numbers = [p for p in self.calls[name] if not p.shape]
        given = {p.name: drawn.get(p.name, 1.25) for p in numbers if p.name in drawn or p.default is None}
        matrices = [self.matrices(each, name) for each in self.placed]
        names = [p.name for p in self.calls[name] if p.shape]
        self.note_weights()
        for way, optimizer in enumerate(self.optimizers):
            own = [(each.tensors[way], found) for each, found in zip(self.placed, matrices, strict=True)]
            listed = {key: {p: torch.tensor(found[key]) for p, found in own if key in found} for key in names}
            getattr(optimizer, name)(**given, **listed)
        arguments = {p.name: given.get(p.name, p.default and p.default.value) for p in numbers}
        parameters, grads, hypers = self.for_oracle()
        interpret.fire_event(parameters, name, grads, hypers, arguments, matrices)
        if self.specials:
            parameters, grads, hypers = self.for_twin()
            interpret.fire_event(parameters, name, grads, hypers, arguments, matrices)
            self.require_determined()
        self.compare(f"event {name} before step {step}")

    def matrices(self, each: Placed, name: str) -> dict[str, Array]:
        """What the event is given for a parameter; of some it is nothing."""
        wanted = [a for event in each.rule.events if event.name == name for a in given_by(event)]
        if not wanted or self.random.random() < 0.2:
            return {}
        return {a.name: self.matrix(a, each) for a in wanted}

    def matrix(self, argument: ir.Hyper, each: Placed) -> Array:
        """Numbers in the shape of the parameter, or in the one that its rule sees."""
        if argument.shape == FULL:
            return self.data(each.oracle.shape)
        inputs = each.oracle.inputs(None, each.hypers)
        return self.data(inputs.size(Type(Kind.NUMBER, argument.shape, Phase.STREAM)))

    def reading_depends_on_passes(self, name: str) -> bool:
        """Whether only a branch that is never taken reads the gradient, so that ways differ in what they skip."""
        (_, first), *_, (_, last) = self.compiled.versions(self.trial.name)
        for old, new in zip(first.rules, last.rules, strict=True):
            pairs = [(old.initial, new.initial)] if old.initial else []
            pairs += [(a.update, b.update) for a, b in zip(old.events, new.events, strict=True) if a.name == name]
            if any(interpret.reads_grad(one) != interpret.reads_grad(two) for one, two in pairs):
                return True
        return False

    def for_oracle(self) -> ForOracle:
        placed = self.placed
        return [each.oracle for each in placed], [each.grad for each in placed], [each.hypers for each in placed]

    def for_twin(self) -> ForOracle:
        placed = self.placed
        return [each.twin for each in placed], [each.shaken for each in placed], [each.hypers for each in placed]

    def note_weights(self) -> None:
        for each in self.placed:
            each.before = each.oracle.value.copy()
            each.largest = max(each.largest, size(each.before))

    # Agreement

    def compare(self, moment: str) -> None:
        for each in self.placed:
            self.compare_gradients(each, moment)
            pairs = zip(self.optimizers, each.tensors, strict=True)
            states = [optimizer.state.get(own, {}) for optimizer, own in pairs]
            self.compare_in_place(each, states[:2], moment)
            if not self.specials and not all(map(is_finite, (each.oracle.weight, *each.oracle.states.values()))):
                raise Difference("tameness", f"{moment}, {each.label}: the weight or a state is not finite")
            for index, ((_, strategy), tensor, state) in enumerate(zip(self.ways, each.tensors, states, strict=True)):
                if index == 1:
                    continue  # its bits are those of the first
                way = "generated module" if not strategy else "graph"
                self.compare_weights(way, each, tensor.detach().numpy(), moment)
                self.compare_counts(each, state, moment)
                self.compare_states(way, each, state, moment)

    def require_determined(self) -> None:
        """The twins have done the same as the oracles."""
        for each in self.placed:
            oracle, twin = each.oracle, each.twin
            pairs = [(twin.value, oracle.value, self.scale(each))]
            pairs += [(twin.states[name], wanted, size(wanted)) for name, wanted in oracle.states.items()]
            if not all(is_close(*pair) for pair in pairs):
                raise Undetermined

    def scale(self, each: Placed) -> float:
        """What errors in the weight are measured by: the step."""
        with np.errstate(invalid="ignore"):
            step = size(each.oracle.value - each.before, least=0.0)
        return max(step, SMALLEST_STEP * each.largest)

    def compare_weights(self, way: str, each: Placed, found: Array, moment: str) -> None:
        what, wanted = f"{moment}, weight of {each.label}", each.oracle.value
        if not each.is_lost or not each.has_average:
            require_close(way, what, found, wanted, self.scale(each))
        elif np.isfinite(found[~np.isfinite(wanted)]).any():
            raise Difference(way, f"{what}: what is lost is kept")

    def settle_doubts(self) -> None:
        """States that differed are excused if the step that has read them loses the weight."""
        for each in self.placed:
            if each.doubt is not None and each.grad is not None:
                if not each.is_lost:
                    raise each.doubt
                each.doubt = None

    def compare_gradients(self, each: Placed, moment: str) -> None:
        for tensor in each.tensors:
            found = np.zeros(0) if tensor.grad is None else tensor.grad.numpy()
            if each.grad is not None and not np.array_equal(found, each.grad, equal_nan=True):
                raise Difference("gradient untouched", f"{moment}, {each.label}")

    def compare_in_place(self, each: Placed, states: Sequence[Mapping[str, Any]], moment: str) -> None:
        """With and without writing in place the bits are the same."""
        one, two = each.tensors[:2]
        pairs: list[tuple[str, Any, Any]] = [("weight", one.detach(), two.detach())]
        pairs += [(name, value, states[1].get(name)) for name, value in states[0].items()]
        for name, left, right in pairs:
            if not np.array_equal(left, right, equal_nan=True):
                raise Difference("in place", f"{moment}, {name} of {each.label}: {left} in place, {right} without")

    def compare_counts(self, each: Placed, state: Mapping[str, Any], moment: str) -> None:
        oracle = each.oracle
        fired = {f"{event.name}_step": oracle.fired.get(event.name, 0) for event in oracle.rule.events}
        counters = {"step": oracle.steps, **fired}
        for name, count in counters.items():
            if state.get(name, 0) != count:
                raise Difference("counters", f"{moment}, {name} of {each.label}: {state.get(name)}, not {count}")
        if not oracle.has_started:  # its states are there from construction, as they begin
            return
        found = set(state) - set(counters)
        if found != set(oracle.states):
            raise Difference("states", f"{moment}, {each.label}: {sorted(found)}, not {sorted(oracle.states)}")

    def compare_states(self, way: str, each: Placed, state: Mapping[str, Any], moment: str) -> None:
        for name, wanted in each.oracle.kept.items():
            what = f"{moment}, state {name} of {each.label}"
            try:
                require_close(way, what, state[name].numpy(), wanted, size(wanted))
            except Difference as found:
                if not self.specials or not each.has_average:
                    raise
                each.doubt = None if each.is_lost else found
                return

    def compare_passes(self) -> None:
        """Every function of every rule after each pass, on the present state of one parameter."""
        versions = list(self.compiled.versions(self.trial.name))
        for index, rule in enumerate(self.declaration.rules):
            started = [p for p in self.placed if p.rule is rule and p.oracle.has_started and not p.is_lost]
            if not started:
                continue
            each = min(started, key=lambda placed: all(map(is_finite, placed.oracle.states.values())))
            grad = self.data(each.oracle.shape)
            if self.specials:
                self.specials.spoil([grad])
            collectives = [each for stage in rule.stages for each in stage.collectives]
            t = float(self.random.integers(1, 7))
            called = [p for event in rule.events for p in event.parameters]
            arguments: dict[str, Any] = {p.name: 1.25 for p in called}
            seen = interpret.as_given
            arguments |= {p.name: seen(self.matrix(p, each), p, rule) for p in called if p.shape}
            inputs, twin = (
                replace(
                    parameter.inputs(interpret.as_seen(given, rule), each.hypers),
                    t=t,
                    noise=parameter.noise("step", int(t)),
                    combined={each.name: np.full((1, 1), 0.37) for each in collectives},
                    arguments=arguments,
                )
                for parameter, given in ((each.oracle, grad), (each.twin, self.specials.shaken(grad)))
            )
            for name, functions in functions_of([(stage, each.rules[index]) for stage, each in versions]).items():
                if not self.specials or is_determined(functions[0][1], inputs, twin):
                    require_same_function(f"{function_text(name)} of rule {rule.name}", functions, inputs)


def known_hypers(declaration: ir.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group without those of hypers that the optimizer leaves out, since it does not read them."""
    names = {hyper.name for hyper in declaration.hypers}
    return {name: value for name, value in group.items() if name in names}


def constructor_defaults(cls: type) -> dict[str, Any]:
    """The defaults of the hypers of a generated class."""
    arguments = inspect.signature(cls).parameters.values()
    return {a.name: a.default for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD and a.default is not a.empty}


def functions_of(rules: Sequence[tuple[str, ir.Rule]]) -> dict[FunctionName, list[tuple[str, ir.Function]]]:
    """Each function of a rule in all its versions."""
    found: dict[FunctionName, list[tuple[str, ir.Function]]] = {}
    for stage, rule in rules:
        for function in rule.functions:
            found.setdefault(function.name, []).append((stage, function))
    return found
