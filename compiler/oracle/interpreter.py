"""The oracle: what a program means, in NumPy float64, one parameter at a time.

Shares no code with the torch target. Parameters are 2-D arrays; a tensor rule sees its parameter
as one column. Values are computed on demand, so a branch that is not taken is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.collectives import Over
from optforge.compiler.ir.dependencies import given_by, inputs_of
from optforge.compiler.ir.meanings.draws import FIRST, noise
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS, SETTINGS
from optforge.compiler.ir.types import FULL, Dim, Type, Universe

Array = NDArray[np.float64]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a function is evaluated on, by where it comes from: a hyper and a state of one name are two values.

    ``weight`` and ``grad`` have two dimensions; they are absent where the function does not read them.
    """

    weight: Any = None
    grad: Any = None
    t: float | None = None
    hypers: Values = field(default_factory=dict)
    states: Values = field(default_factory=dict)
    arguments: Values = field(default_factory=dict)
    combined: Values = field(default_factory=dict)
    whole: tuple[int, int] | None = None  # the sizes of the matrix that the weight is a shard of
    noise: Any = None  # a number for each element, of which draws are made
    is_turned: bool = False  # the parameter itself is the transpose
    rank: int = 0  # the size of the rule's own dimension, if it has one

    def value(self, node: ir.Input) -> Any:
        match node.source:
            case ir.InputSource.STREAM:
                return {"weight": self.weight, "grad": self.grad, "noise": self.noise}[node.name]
            case ir.InputSource.DIMENSION:
                return self.dimension(node.name)
            case ir.InputSource.STEP:
                return self.t
            case ir.InputSource.HYPER:
                return self.hypers[node.name]
            case ir.InputSource.STATE:
                return self.states[node.name]
            case ir.InputSource.ARGUMENT | ir.InputSource.GIVEN:
                return self.arguments[node.name]
            case ir.InputSource.COMBINED:
                return self.combined[node.name]
            case _:
                assert_never(node.source)

    def dimension(self, name: str) -> int:
        """Rows or columns of the matrix, outputs or inputs of the parameter, or the rule's own dimension."""
        rows, cols = self.whole or self.weight.shape
        outputs, inputs = (cols, rows) if self.is_turned else (rows, cols)
        sizes: dict[str, int] = {"rows": rows, "cols": cols, "outputs": outputs, "inputs": inputs}
        return sizes.get(name, self.rank)

    def size(self, wanted: Type) -> tuple[int, int]:
        """The shape that a type means for this weight."""
        assert wanted.shape is not None
        rows, cols = self.whole if self.weight is None and self.whole else self.weight.shape
        size = {Dim.ONE: 1, Dim.ROWS: rows, Dim.COLS: cols, Dim.RANK: self.rank}
        return size[wanted.shape[0]], size[wanted.shape[1]]


class Evaluation:
    """One evaluation of a function on given inputs; equations are computed once, when first read."""

    def __init__(self, function: ir.Function, inputs: Inputs) -> None:
        self.equations = {equation.name: equation.value for equation in function.equations}
        self.outputs = function.outputs
        self.inputs = inputs
        self.known: dict[EquationName, Any] = {}

    def value(self, expr: ir.Expr) -> Any:
        match expr:
            case ir.Literal():
                return expr.value
            case ir.Input():
                return self.inputs.value(expr)
            case ir.Ref():
                if expr.name not in self.known:
                    self.known[expr.name] = self.value(self.equations[expr.name])
                return self.known[expr.name]
            case ir.Select():
                return self._select(expr)
            case ir.Apply(operator="fill", arguments=(inner,)):
                return np.broadcast_to(self.value(inner), self.inputs.size(expr.type)).copy()
            case ir.Apply():
                return self._apply(expr)
            case ir.Prev() | ir.Latest():
                raise AssertionError(f"{type(expr).__name__} is gone after the stream check")
            case _:
                assert_never(expr)

    def _select(self, node: ir.Select) -> Any:
        condition = self.value(node.condition)
        if node.condition.type.is_scalar_phase:
            return self.value(node.then if condition else node.otherwise)
        return np.where(condition, self.value(node.then), self.value(node.otherwise))

    def _apply(self, node: ir.Apply) -> Any:
        operator = OPERATORS[node.operator]
        arguments = [self.value(argument) for argument in node.arguments]
        if node.type.is_scalar_phase:
            assert operator.scalar is not None
            return operator.scalar(*arguments)
        arrays = [
            value if parameter.want in SETTINGS else as_array(value)
            for value, parameter in zip(arguments, operator.parameters, strict=True)
        ]
        sizes = [] if operator.values else [self.inputs.size(node.type)]
        return operator.reference(*arrays, *sizes)


def as_array(value: Any) -> Any:
    """The value with two dimensions."""
    return value if isinstance(value, np.ndarray) and value.ndim == 2 else np.asarray(value).reshape(1, 1)


def evaluate_function(function: ir.Function, inputs: Inputs) -> dict[str, Any]:
    """The outputs of a function by name."""
    evaluation = Evaluation(function, inputs)
    with np.errstate(all="ignore"):
        return {output.name: evaluation.value(output.value) for output in function.outputs}


class OracleParameter:
    """A weight with its states, as the interpreter keeps them: ``weight`` is (rows, cols) as the rule sees it.

    ``number`` is its place among the parameters of an optimizer; of that and ``seed`` all that is random is made.
    """

    def __init__(self, weight: Array, rule: ir.Rule, number: int = 0, seed: int = 0) -> None:
        self.number, self.seed = number, seed
        self.shape = weight.shape
        self.rule = rule
        self.weight = as_seen(weight, rule)
        self.states: dict[str, Array] = {}
        self.steps = 0
        self.fired: dict[str, int] = {}

    @property
    def value(self) -> Array:
        return (self.weight.T if self.is_turned else self.weight).reshape(self.shape)

    @property
    def is_turned(self) -> bool:
        """Whether its rule sees the transpose."""
        return is_turned(self.shape, self.rule)

    @property
    def has_started(self) -> bool:
        return bool(self.states) or not self.rule.states

    @property
    def kept(self) -> dict[str, Array]:
        """The states as classes keep them: what has the shape of the parameter lies as that does."""
        full = {state.name for state in self.rule.states if state.type.shape == FULL}
        return {n: x.T if self.is_turned and n in full else x for n, x in self.states.items()}

    def start(self, grad: Array | None, hypers: Values, others: Sequence[OracleParameter]) -> None:
        """Give every state its first value: a shared one that of ``others`` of the rule, where any has begun."""
        if self.has_started:
            return
        begun = next((each for each in others if each.rule.name == self.rule.name and each.states), None)
        inputs = replace(self.inputs(grad, hypers), noise=self.noise(FIRST, 0))
        self.states = {state.name: np.zeros(inputs.size(state.type)) for state in self.rule.states}
        if self.rule.initial is not None:
            self.states |= evaluate_function(self.rule.initial, inputs)
        if begun is not None:
            self.states |= {state.name: begun.states[state.name] for state in self.rule.states if state.shared}

    def noise(self, counter: str, count: int) -> Array:
        """The noise of its elements when the counter is there, as the rule sees them."""
        return as_seen(noise(self.seed, self.number, counter, count, self.shape), self.rule)

    def inputs(self, grad: Array | None, hypers: Values) -> Inputs:
        """What the rule's functions are evaluated on now; ``t``, arguments and what is combined are the caller's."""
        given = Inputs(self.weight, grad, hypers=hypers, states=dict(self.states), is_turned=self.is_turned)
        return replace(given, rank=size_of_rank(self.rule.rank, given)) if self.rule.rank else given


def size_of_rank(rank: ir.Function, inputs: Inputs) -> int:
    """The size of a rule's own dimension for a matrix: a whole number, from 1 to the smaller of rows and columns."""
    (value,) = evaluate_function(rank, inputs).values()
    return int(min(max(value, 1), *inputs.weight.shape))


def as_matrix(array: Array, universe: Universe) -> Array:
    """A parameter as its rule sees it: (out, everything else), or one column."""
    array = np.asarray(array, dtype=np.float64)
    return array.reshape(-1, 1) if universe is Universe.TENSOR else array.reshape(array.shape[0], -1)


def as_seen(array: Array, rule: ir.Rule) -> Array:
    """A parameter, or a gradient of its shape, as the rule sees it."""
    matrix = as_matrix(array, rule.universe)
    return matrix.T.copy() if is_turned(np.shape(array), rule) else matrix


def is_turned(shape: tuple[int, ...], rule: ir.Rule) -> bool:
    """Whether the rule sees the transpose of a parameter of this shape."""
    if not rule.orientation:
        return False
    rows, cols = shape[0], int(np.prod(shape[1:]))
    return rows > cols if rule.orientation == "wide" else rows < cols


def run_step(
    parameters: Sequence[OracleParameter], grads: Sequence[Array | None], hypers: Sequence[Values]
) -> list[Evaluation]:
    """One step of all parameters that have a gradient, and the values of each; collectives range over all of these."""
    active = [
        (parameter, as_seen(grad, parameter.rule), values)
        for parameter, grad, values in zip(parameters, grads, hypers, strict=True)
        if grad is not None
    ]
    for parameter, grad, values in active:
        parameter.start(grad, values, parameters)
        parameter.steps += 1
    rules = {parameter.rule.name: parameter.rule for parameter, _, _ in active}
    inputs = [step_inputs(*each) for each in active]
    given_by = [(parameter.rule.name, each) for (parameter, _, _), each in zip(active, inputs, strict=True)]
    combined = {name: combine(name, rule.step, given_by) for name, rule in rules.items()}
    evaluations = [
        Evaluation(parameter.rule.update, replace(given, combined=combined[parameter.rule.name]))
        for (parameter, _, _), given in zip(active, inputs, strict=True)
    ]
    for (parameter, _, _), evaluation in zip(active, evaluations, strict=True):
        apply_outputs(parameter, evaluation)
    for parameter, _, _ in {parameter.rule.name: each for each in active for parameter in each[:1]}.values():
        share(parameter, parameters)
    return evaluations


def share(stepped: OracleParameter, parameters: Sequence[OracleParameter]) -> None:
    """Gives the shared values of a parameter that has just stepped to all others of its rule that have begun."""
    shared = {state.name: stepped.states[state.name] for state in stepped.rule.states if state.shared}
    for parameter in parameters:
        if parameter.rule.name == stepped.rule.name and parameter.states:
            parameter.states |= shared


def step_inputs(parameter: OracleParameter, grad: Array, hypers: Values) -> Inputs:
    """What a parameter's step is evaluated on, but for what is combined; the step has been counted."""
    count = parameter.steps
    return replace(parameter.inputs(grad, hypers), t=float(count), noise=parameter.noise("step", count))


def combine(rule: str, stages: Sequence[ir.Stage], given: Sequence[tuple[str, Inputs]]) -> dict[str, Array]:
    """What the stages before the last combine, stage after stage, of what is given for every parameter with a gradient.

    What is given comes with the names of its rules. All collectives are sums over parameters, of every rule or of the
    stages' own; a sum over none is 0.
    """
    combined: dict[str, Array] = {}
    for stage in stages:
        is_own = any(collective.over is Over.OF_RULE for collective in stage.collectives)
        counted = [each for name, each in given if name == rule or not is_own]
        inputs = [seen_in(stage.function.universe, replace(each, combined=combined)) for each in counted]
        outputs = [evaluate_function(stage.function, each) for each in inputs] if stage.collectives else []
        names = [collective.name for collective in stage.collectives]
        with np.errstate(all="ignore"):
            combined |= {name: np.sum([np.zeros((1, 1)), *(each[name] for each in outputs)], axis=0) for name in names}
    return combined


def seen_in(universe: Universe, inputs: Inputs) -> Inputs:
    """The inputs of a parameter, perhaps one of another rule, as functions of a universe see them."""
    if universe is Universe.MATRIX:
        return inputs
    return replace(inputs, **{name: getattr(inputs, name).reshape(-1, 1) for name in ("weight", "grad", "noise")})


def fire_event(
    parameters: Sequence[OracleParameter],
    name: str,
    grads: Sequence[Array | None],
    hypers: Sequence[Values],
    arguments: Values,
    given: Sequence[Values] = (),
) -> None:
    """The event for every parameter whose rule has it; collectives range over all parameters with a gradient.

    Arguments that are arrays are those of all parameters; ``given`` are those of each. Without one that its event takes
    a parameter is left out.
    """
    events = {p.rule.name: event for p in parameters for event in p.rule.events if event.name == name}
    combined = {
        rule: combine_before(rule, event.step, parameters, name, grads, hypers, arguments) if event.step[1:] else {}
        for rule, event in events.items()
    }
    called = [{**arguments, **own} for own in given] if given else [arguments] * len(parameters)
    for parameter, grad, values, own in zip(parameters, grads, hypers, called, strict=True):
        for event in parameter.rule.events:
            if event.name == name and (grad is not None or not needs_grad(parameter, event)):
                if any(each.name not in own for each in given_by(event)):
                    continue
                own = {**own, **{each.name: as_given(own[each.name], each, parameter.rule) for each in given_by(event)}}
                matrix = None if grad is None else as_seen(grad, parameter.rule)
                parameter.start(matrix, values, parameters)
                parameter.fired[name] = parameter.fired.get(name, 0) + 1
                inputs = event_inputs(parameter, name, matrix, values, own, parameter.fired[name])
                inputs = replace(inputs, combined=combined[parameter.rule.name])
                apply_outputs(parameter, Evaluation(event.update, inputs))


def as_given(array: Array, argument: ir.Hyper, rule: ir.Rule) -> Array:
    """What an event is given for a parameter, as its rule sees it."""
    return as_seen(array, rule) if argument.shape == FULL else np.asarray(array, dtype=np.float64)


def event_inputs(
    parameter: OracleParameter, name: str, grad: Array | None, hypers: Values, arguments: Values, count: int
) -> Inputs:
    """What an event is evaluated on that fires for the ``count``-th time, but for what is combined."""
    counter = f"{name}_step"
    return replace(
        parameter.inputs(grad, hypers), arguments=arguments, t=float(count), noise=parameter.noise(counter, count)
    )


def combine_before(
    rule: str,
    stages: Sequence[ir.Stage],
    parameters: Sequence[OracleParameter],
    name: str,
    grads: Sequence[Array | None],
    hypers: Sequence[Values],
    arguments: Values,
) -> dict[str, Array]:
    """What the stages combine of an event that is about to be fired."""
    active = [
        (parameter, as_seen(grad, parameter.rule), values)
        for parameter, grad, values in zip(parameters, grads, hypers, strict=True)
        if grad is not None
    ]
    for parameter, grad, values in active:
        if any(event.name == name for event in parameter.rule.events):
            parameter.start(grad, values, parameters)
    given = [
        (p.rule.name, event_inputs(p, name, grad, values, arguments, p.fired.get(name, 0) + 1))
        for p, grad, values in active
    ]
    return combine(rule, stages, given)


def needs_grad(parameter: OracleParameter, event: ir.Event) -> bool:
    """Whether the event, or a first value that is still to be computed, reads the gradient."""
    initial = None if parameter.has_started else parameter.rule.initial
    return reads_grad(event.update) or (initial is not None and reads_grad(initial))


def reads_grad(function: ir.Function) -> bool:
    return any(node.key == ir.GRAD for node in inputs_of(function))


def apply_outputs(parameter: OracleParameter, evaluation: Evaluation) -> None:
    """Give the weight and the states their new values; a function may have other outputs, which change nothing."""
    states = {"weight", *parameter.states}
    with np.errstate(all="ignore"):
        values = {each.name: evaluation.value(each.value) for each in evaluation.outputs if each.name in states}
    for name, value in values.items():
        array = np.array(value, dtype=np.float64)
        if name == "weight":
            parameter.weight = array
        else:
            parameter.states[name] = array


def schedule_factor(schedule: ir.Schedule, t: float, hypers: Values) -> float:
    """The factor on the base lr at step t (the first step has t = 1)."""
    return float(evaluate_function(schedule.function, Inputs(t=t, hypers=hypers))["factor"])
