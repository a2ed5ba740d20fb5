"""The runs of one declaration: an optimizer on parameters of many shapes, a schedule, a penalty."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, assert_never

import numpy as np
import torch

from optforge.compiler.ir import nodes as ir
from optforge.compiler.oracle import interpreter as interpret
from tools.programs.differential import (
    SMALLEST_STEP,
    Array,
    Compiled,
    Difference,
    Shares,
    hyper_values,
    require_close,
    require_same_function,
    size,
)
from tools.programs.programs import Trial
from tools.programs.rewriting import compile_by_rewriting

FEWEST_STEPS = 2  # every second program takes one more
RECORDED: dict[str, Any] = {"backend": "eager", "capturable": True}
COMPILED: dict[str, Any] = {"backend": "compile"}
MATRIX_SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((4, 4), (6, 3), (3, 5), (3, 5)),
    ((1, 4), (5, 1), (4, 4), (2, 3, 2)),
    ((3, 5), (3, 5), (1, 4), (6, 3)),
)
SPECIAL_SHAPES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("conv", (3, 2, 2, 1)),
    ("embedding", (5, 3)),
    ("head", (3, 5)),
)


def chosen_shapes(seed: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The shapes of the parameters of each role: each seed has some, and a few seeds have all."""
    role, shape = SPECIAL_SHAPES[seed % len(SPECIAL_SHAPES)]
    matrices = MATRIX_SHAPES[seed // len(SPECIAL_SHAPES) % len(MATRIX_SHAPES)]
    return {"conv": (), "embedding": (), "head": (), role: (shape,), "matrix": matrices, "vector": ((5,), ())}


def run_trial(compiled: Compiled, trial: Trial, seed: int, shares: Shares) -> None:
    declaration: ir.Declaration = compiled.declared(trial.name)
    match declaration:
        case ir.Optimizer():
            with graphs_of(shares, seed) as strategies:
                OptimizerTrial(compiled, trial, declaration, seed, strategies).run()
        case ir.Schedule():
            run_schedule(compiled, trial, declaration)
        case ir.Penalty():
            run_penalty(compiled, trial, declaration, seed)
        case _:
            assert_never(declaration)


# Optimizers


@contextmanager
def graphs_of(shares: Shares, seed: int) -> Iterator[list[dict[str, Any]]]:
    """How a program of this seed runs as graphs; within, its graphs are compiled so, and none may be refused."""
    strategies = [RECORDED] if is_chosen(shares.recorded, seed) else []
    is_rewritten = is_chosen(shares.rewritten, seed)
    compiler = compile_by_rewriting() if is_rewritten else nullcontext()
    strategies += [COMPILED] if is_rewritten or is_chosen(shares.compiled, seed) else []
    with compiler, warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"\w+ runs eagerly")
        try:
            yield strategies
        except UserWarning as refused:
            raise Difference("graph", str(refused)) from None


def is_chosen(share: int, seed: int) -> bool:
    """Whether the seed is one in so many; not 0, which is drawn more often."""
    return share > 0 and seed % share == 7 % share


@dataclass
class Placed:
    """One parameter everywhere: in the oracle, and in each generated optimizer."""

    label: str
    rule: ir.Rule
    hypers: Mapping[str, Any]
    oracle: interpret.OracleParameter
    tensors: tuple[torch.nn.Parameter, ...]
    grad: Array | None = None
    before: Array = field(default_factory=lambda: np.zeros(0))


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
        self.shapes = chosen_shapes(seed)
        self.ways: list[tuple[ModuleType, dict[str, Any]]] = [(compiled.module, {}), (compiled.plain_module, {})]
        self.ways += [(compiled.module, strategy) for strategy in strategies]
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
        self.calls = ir.calls_of(declaration.rules)
        events = [event for rule in type(self.optimizers[0]).RULES for event in rule.events]
        self.undoing = {event.undoes: event.name for event in events if event.undoes}
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
        label = f"{role} parameter {shape}"
        return Placed(label, rule, values, interpret.OracleParameter(weight, rule), tensors, before=weight)

    def data(self, shape: tuple[int, ...]) -> Array:
        return np.clip(self.random.standard_normal(shape), -3, 3)

    def run(self) -> None:
        for step in range(1, self.steps + 1):
            self.set_gradients()
            if step == 2:
                self.compare_passes()
            try:
                self.advance(step)
            except Difference:
                self.compare_passes()  # a pass that is to blame is the better answer
                raise

    def set_gradients(self, every: bool = False) -> None:
        """New gradients; some are missing unless it says ``every``."""
        for each in self.placed:
            each.grad = None if not every and self.random.random() < 0.1 else self.data(each.oracle.shape)
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
        self.compare(f"step {step}")

    def is_due(self, name: str) -> bool:
        shown = next((shown for shown, undoing in self.undoing.items() if undoing == name), None)
        return name not in self.in_place if shown is None else shown in self.in_place

    def fire(self, step: int, name: str) -> None:
        self.in_place = {shown for shown in self.in_place if self.undoing[shown] != name}
        self.in_place |= {name} & self.undoing.keys()
        if self.reading_depends_on_passes(name):
            self.set_gradients(every=True)
        drawn = self.trial.events.get(name, {})  # an event that changes nothing is left out, and so are its arguments
        given = {p.name: drawn.get(p.name, 1.25) for p in self.calls[name] if p.name in drawn or p.default is None}
        self.note_weights()
        for optimizer in self.optimizers:
            getattr(optimizer, name)(**given)
        arguments = {p.name: given.get(p.name, p.default and p.default.value) for p in self.calls[name]}
        parameters, grads, hypers = self.for_oracle()
        interpret.fire_event(parameters, name, grads, hypers, arguments)
        self.compare(f"event {name} before step {step}")

    def reading_depends_on_passes(self, name: str) -> bool:
        """Whether only a branch that is never taken reads the gradient, so that ways differ in what they skip."""
        (_, first), *_, (_, last) = self.compiled.versions(self.trial.name)
        for old, new in zip(first.rules, last.rules, strict=True):
            pairs = [(old.initial, new.initial)] if old.initial else []
            pairs += [(a.update, b.update) for a, b in zip(old.events, new.events, strict=True) if a.name == name]
            if any(interpret.reads_grad(one) != interpret.reads_grad(two) for one, two in pairs):
                return True
        return False

    def for_oracle(self) -> tuple[list[interpret.OracleParameter], list[Array | None], list[Mapping[str, Any]]]:
        placed = self.placed
        return [each.oracle for each in placed], [each.grad for each in placed], [each.hypers for each in placed]

    def note_weights(self) -> None:
        for each in self.placed:
            each.before = each.oracle.value.copy()

    # Agreement

    def compare(self, moment: str) -> None:
        for each in self.placed:
            self.compare_gradients(each, moment)
            pairs = zip(self.optimizers, each.tensors, strict=True)
            states = [optimizer.state.get(own, {}) for optimizer, own in pairs]
            self.compare_in_place(each, states[:2], moment)
            weight = each.oracle.value
            if not np.isfinite(weight).all():
                raise Difference("tameness", f"{moment}, {each.label}: the weight is not finite")
            step = float(np.abs(weight - each.before).max(initial=0.0))
            scale = max(step, SMALLEST_STEP * size(weight))
            for index, ((_, strategy), tensor, state) in enumerate(zip(self.ways, each.tensors, states, strict=True)):
                if index == 1:
                    continue  # its bits are those of the first
                way = "generated module" if not strategy else "graph"
                require_close(way, f"{moment}, weight of {each.label}", tensor.detach().numpy(), weight, scale)
                self.compare_states(way, each, state, moment)

    def compare_gradients(self, each: Placed, moment: str) -> None:
        for tensor in each.tensors:
            found = np.zeros(0) if tensor.grad is None else tensor.grad.numpy()
            if each.grad is not None and not np.array_equal(found, each.grad):
                raise Difference("gradient untouched", f"{moment}, {each.label}")

    def compare_in_place(self, each: Placed, states: Sequence[Mapping[str, Any]], moment: str) -> None:
        """With and without writing in place the bits are the same."""
        one, two = each.tensors[:2]
        pairs: list[tuple[str, Any, Any]] = [("weight", one.detach(), two.detach())]
        pairs += [(name, value, states[1].get(name)) for name, value in states[0].items()]
        for name, left, right in pairs:
            same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
            if not same:
                raise Difference("in place", f"{moment}, {name} of {each.label}: {left} in place, {right} without")

    def compare_states(self, way: str, each: Placed, state: Mapping[str, Any], moment: str) -> None:
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
        for name, wanted in oracle.states.items():
            what = f"{moment}, state {name} of {each.label}"
            require_close(way, what, state[name].numpy(), wanted, size(wanted))

    def compare_passes(self) -> None:
        """Every function of every rule after each pass, on the present state of one parameter."""
        versions = list(self.compiled.versions(self.trial.name))
        for index, rule in enumerate(self.declaration.rules):
            each = next((p for p in self.placed if p.rule is rule and p.oracle.has_started), None)
            if each is None:
                continue
            grad = interpret.as_matrix(self.data(each.oracle.shape), rule.universe)
            collectives = [each for stage in rule.stages for each in stage.collectives]
            inputs = replace(
                each.oracle.inputs(grad, each.hypers),
                t=float(self.random.integers(1, 7)),
                combined={each.name: np.full((1, 1), 0.37) for each in collectives},
                arguments={p.name: 1.25 for event in rule.events for p in event.parameters},
            )
            for name, functions in functions_of([(stage, each.rules[index]) for stage, each in versions]).items():
                require_same_function(f"{name} of rule {rule.name}", functions, inputs)


def known_hypers(declaration: ir.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group without those of hypers that the optimizer leaves out, since it does not read them."""
    names = {hyper.name for hyper in declaration.hypers}
    return {name: value for name, value in group.items() if name in names}


def constructor_defaults(cls: type) -> dict[str, Any]:
    """The defaults of the hypers of a generated class."""
    arguments = inspect.signature(cls).parameters.values()
    return {a.name: a.default for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD and a.default is not a.empty}


def functions_of(rules: Sequence[tuple[str, ir.Rule]]) -> dict[str, list[tuple[str, ir.Function]]]:
    """Each function of a rule in all its versions."""
    found: dict[str, list[tuple[str, ir.Function]]] = {}
    for stage, rule in rules:
        for function in rule.functions:
            found.setdefault(function.name, []).append((stage, function))
    return found


# Schedules and penalties


def run_schedule(compiled: Compiled, trial: Trial, declaration: ir.Schedule) -> None:
    """The factor of each step, and the lr that a scheduler sets."""
    values = hyper_values(declaration, trial.groups[0])
    versions = [(stage, each.function) for stage, each in compiled.versions(trial.name)]
    base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(compiled.module, trial.name)(base, **trial.groups[0])
    for t in range(1, 9):
        factor = require_same_function("factor", versions, interpret.Inputs(t=float(t), hypers=values))["factor"]
        require_close("generated module", f"factor at t = {t}", base.param_groups[0]["lr"], factor, size(factor))
        base.step()
        scheduler.step()


def run_penalty(compiled: Compiled, trial: Trial, declaration: ir.Penalty, seed: int) -> None:
    """The value, and the derivative along a random direction by differences."""
    rng = np.random.default_rng(seed)
    shapes = [(4, 4), (6, 3), (1, 4), (2, 3, 2), (5,)]
    weights = [rng.standard_normal(shape) for shape in shapes]
    values = hyper_values(declaration, trial.groups[0])

    def oracle(shift: float) -> float:
        rules = {role: rule for rule in declaration.rules for role in rule.roles}
        total = 0.0
        for weight, direction in zip(weights, directions, strict=True):
            rule = rules.get("matrix" if weight.ndim > 1 else "vector")
            if rule is not None:
                matrix = interpret.as_matrix(weight + shift * direction, rule.universe)
                inputs = interpret.Inputs(weight=matrix, hypers=values)
                total += float(interpret.evaluate_function(rule.update, inputs)["loss"].item())
        return total

    directions = [rng.standard_normal(shape) for shape in shapes]
    slope = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
    for module in (compiled.module, compiled.plain_module):
        tensors = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
        loss = getattr(module, trial.name)(tensors, **trial.groups[0])()
        require_close("generated penalty", "loss", loss.item(), oracle(0.0), size(oracle(0.0)))
        if not loss.requires_grad:
            continue
        loss.backward()
        pairs = [(p.grad.numpy(), d) for p, d in zip(tensors, directions, strict=True) if p.grad is not None]
        found = sum(float((grad * direction).sum()) for grad, direction in pairs)
        require_close("penalty's gradient", "slope", found, slope, 1e5 * max(size(slope), size(oracle(0.0))))
