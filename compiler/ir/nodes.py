"""The intermediate representation: pure functions from tensors and scalars to tensors.

Everything a spec says becomes a :class:`Function`: the stages of a rule's step and of its events, its initial state,
a schedule, a penalty. A function is a list of named equations and a list of outputs; state is nothing but an input and
an output of the same name. Expressions are trees of five node classes; ``span`` takes no part in equality.

:func:`children` and :func:`map_children` are the only places that list the children of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import is_
from typing import NamedTuple, TypeAlias, assert_never

from optforge.compiler.ir.collectives import Collective
from optforge.compiler.ir.names import EquationName, FunctionName, Mark, read_given
from optforge.compiler.ir.types import UNTYPED, Kind, Shape, Type, Universe
from optforge.dsl import ast
from optforge.dsl.source import NOWHERE, Span

Value: TypeAlias = "float | bool | str | tuple[tuple[float, ...], ...]"


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands in an expression: its type, the place in the spec it comes from, and what it was there."""

    type: Type = field(default=UNTYPED, kw_only=True)
    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
    mark: Mark | None = field(default=None, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant with the spelling it had in the spec (``1e-8`` stays ``1e-8``)."""

    value: Value
    spelling: str


class InputSource(Enum):
    """Where the value of an input comes from."""

    STREAM = "stream"  # grad, weight and noise: tensors of this step
    STATE = "state"  # what an earlier step left behind
    HYPER = "hyper"  # the parameter group
    STEP = "step"  # t
    DIMENSION = "dimension"  # rows and cols; of an oriented rule also outputs and inputs, those of the parameter
    ARGUMENT = "argument"  # of the event's call: a number
    GIVEN = "given"  # of the event's call: a tensor for each parameter
    COMBINED = "combined"  # what a collective of an earlier stage has made

    __hash__ = object.__hash__


Key: TypeAlias = tuple[InputSource, str]
WEIGHT: Key = (InputSource.STREAM, "weight")
GRAD: Key = (InputSource.STREAM, "grad")
NOISE: Key = (InputSource.STREAM, "noise")  # a number for each element of the weight, of which random ones are made
STEP: Key = (InputSource.STEP, "t")
SIZES: tuple[Key, ...] = ((InputSource.DIMENSION, "rows"), (InputSource.DIMENSION, "cols"))
OWN_SIZES: tuple[Key, ...] = ((InputSource.DIMENSION, "outputs"), (InputSource.DIMENSION, "inputs"))


def stored(name: str) -> Key:
    """The tensor of that name among those that a kernel is given: weight, gradient and noise, what an event is given,
    else a state."""
    if given := read_given(name):
        return InputSource.GIVEN, given
    return {"weight": WEIGHT, "grad": GRAD, "(noise)": NOISE}.get(name, (InputSource.STATE, name))


@dataclass(frozen=True, slots=True)
class Input(Node):
    """A value that comes from outside of the function; inputs of one name from two sources are two inputs."""

    name: str
    source: InputSource

    @property
    def key(self) -> Key:
        """What tells one input from every other, and what tables of inputs are keyed by."""
        return self.source, self.name


class StreamRef(NamedTuple):
    """An equation among those of all machines of a rule: its step, called ``step``, and its events."""

    machine: str
    name: EquationName


@dataclass(frozen=True, slots=True)
class Latest(Node):
    """The latest value of another machine's stream; replaced by state inputs once streams are checked."""

    stream: StreamRef


@dataclass(frozen=True, slots=True)
class Ref(Node):
    """The value of the equation of that name, in the same function."""

    name: EquationName


@dataclass(frozen=True, slots=True)
class Prev(Node):
    """``prev(stream, initial)`` as written; replaced by state inputs once streams are checked."""

    stream: Ref | Input
    initial: Expr
    binding: EquationName  # the equation of the spec that this stands in
    inner: str  # what the function that was written out calls the stream; "" when written directly


ROUND = "|>"  # in place of an operator: what a repeated function was given, and what it made of that; typing drops it


@dataclass(frozen=True, slots=True)
class Apply(Node):
    """An operator of the table on all its arguments, defaults filled in."""

    operator: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Select(Node):
    """Only the branch taken is computed when the condition is constant or step-phase."""

    condition: Expr
    then: Expr
    otherwise: Expr


Written: TypeAlias = ast.Binding | ast.Update | ast.Delegate | ast.Wrapper  # around what comes before it, with one rule
Expr: TypeAlias = Literal | Input | Latest | Ref | Prev | Apply | Select


@dataclass(frozen=True, slots=True)
class Equation:
    """``name = value``.

    ``when`` is the Python condition outside of which nothing needs the value; ``in_place`` says
    that the value's outermost operator overwrites its first argument. What is ``shared`` is one value for all
    parameters of the rule; once streams are states, those say it.
    """

    name: EquationName
    value: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    when: Expr | None = None
    in_place: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """``name`` is ``weight``, a state, ``factor``, ``loss``, or that of a collective."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Function:
    """Equations and outputs: what is computed from the inputs, once, wherever the conditions ``given`` hold."""

    name: FunctionName
    universe: Universe
    equations: tuple[Equation, ...]
    outputs: tuple[Output, ...]
    given: tuple[Expr, ...] = ()
    rank: str = ""  # the dimension beside rows and cols, by its name


@dataclass(frozen=True, slots=True)
class Stage:
    """A pure function and what must be combined of its outputs before the next stage: all, of the last stage none."""

    function: Function
    collectives: tuple[Collective, ...] = ()


# What a spec declares, around its functions


@dataclass(frozen=True, slots=True)
class Hyper:
    """``default`` is None for a required hyperparameter; ``choices`` is the closed set of a string."""

    name: str
    default: Literal | None
    kind: Kind
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    choices: tuple[str, ...] = ()
    shape: Shape | None = None  # of an argument that every parameter has its own value of


@dataclass(frozen=True, slots=True)
class Requirement:
    """``condition`` must hold for the hypers; ``value`` is shown with ``subject`` when it does not."""

    subject: str
    value: Expr
    condition: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class State:
    """A tensor kept from step to step under ``name`` (the checkpoint format).

    States of equal ``fingerprint`` hold the same values whatever the spec calls them; ``equation`` says it in words.
    A state that is ``shared`` has one value for all parameters of its rule, each of which keeps a copy; ``reads`` are
    the hypers that this value follows from, beside what it sums up.
    """

    name: str
    type: Type
    shared: bool = False
    reads: tuple[str, ...] = ()
    fingerprint: str = field(default="", compare=False)
    equation: str = field(default="", compare=False)
    # What the fingerprint was before the hypers of a set were there, and what these were stood in their place.
    before: tuple[tuple[tuple[str, ...], str], ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Event:
    """What a method of the generated class computes, with the arguments of its call."""

    name: str
    parameters: tuple[Hyper, ...]
    step: tuple[Stage, ...]
    doc: str = ""
    undoes: str = field(default="", compare=False)  # the event whose weights it takes away again

    @property
    def update(self) -> Function:
        """The function of the last stage, which gives the weight and states."""
        return self.step[-1].function


@dataclass(frozen=True, slots=True)
class Claim:
    """``promise`` is a comparison, or the argument of one of the special forms (``form`` names it)."""

    written: ast.Expression
    form: str
    promise: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """One step for the parameters of some roles; ``initial`` gives the states that do not start at 0."""

    name: str
    roles: tuple[str, ...]
    universe: Universe
    states: tuple[State, ...]
    step: tuple[Stage, ...]
    initial: Function | None
    events: tuple[Event, ...]
    claims: tuple[Claim, ...]
    written: tuple[Written, ...]  # the spec's own equations, for docstrings
    was: tuple[Function, ...] = ()  # each makes one state out of those of an older checkpoint
    rank: Function | None = None  # the size of the dimension that the rule declares; the output is its name
    orientation: str = ""  # "wide" (rows <= cols) or "tall" (rows >= cols): other matrices are seen transposed
    keeps_zero: bool = field(default=False, compare=False)  # a weight of zeros stays so
    moves_at_rest: bool = field(default=False, compare=False)  # a step with lr = 0 may change the weight

    @property
    def update(self) -> Function:
        """The function of the last stage, which gives the weight and states, or a penalty's loss."""
        return self.step[-1].function

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the step, then those of each event."""
        return (*self.step, *(stage for event in self.events for stage in event.step))

    @property
    def functions(self) -> tuple[Function, ...]:
        """All that is computed for parameters of the rule: by the step, at the beginning, by events."""
        return (*(stage.function for stage in self.stages), *((self.initial,) if self.initial else ()))


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A checked optimizer: one rule for each group of roles."""

    name: str
    doc: str
    hypers: tuple[Hyper, ...]
    requirements: tuple[Requirement, ...]
    rules: tuple[Rule, ...]
    was: tuple[Function, ...] = ()  # each makes one hyper out of those of an older checkpoint
    fingerprint: str = field(default="", compare=False)  # of all that the optimizer computes
    momentum: tuple[str, ...] = field(default=(), compare=False)  # the hypers that play it


@dataclass(frozen=True, slots=True)
class Schedule:
    """A checked schedule; the only output of its function is ``factor``."""

    name: str
    doc: str
    hypers: tuple[Hyper, ...]
    requirements: tuple[Requirement, ...]
    function: Function
    written: tuple[Written, ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Penalty:
    """``rules`` have a step whose only output is ``loss`` and no state."""

    name: str
    doc: str
    hypers: tuple[Hyper, ...]
    requirements: tuple[Requirement, ...]
    rules: tuple[Rule, ...]


Declaration: TypeAlias = Optimizer | Schedule | Penalty


@dataclass(frozen=True, slots=True)
class Program:
    """All declarations of one spec file, in source order; ``wrappers`` are around gradient descent."""

    doc: str
    declarations: tuple[Declaration, ...]
    wrappers: tuple[Optimizer, ...] = ()


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct children, left to right."""
    match expr:
        case Literal() | Input() | Latest() | Ref():
            return ()
        case Prev():
            return (expr.initial,)
        case Apply():
            return expr.arguments
        case Select():
            return (expr.condition, expr.then, expr.otherwise)
        case _:
            assert_never(expr)


def map_children(change: Callable[[Expr], Expr], expr: Expr) -> Expr:
    """The same node with every child replaced by ``change(child)``; the node itself where none changes."""
    old = children(expr)
    new = tuple([change(child) for child in old])
    if all(map(is_, new, old)):
        return expr
    match expr:
        case Prev():
            return replace(expr, initial=new[0])
        case Select():
            return replace(expr, condition=new[0], then=new[1], otherwise=new[2])
        case Apply():
            return replace(expr, arguments=new)
        case Literal() | Input() | Latest() | Ref():
            return expr
        case _:
            assert_never(expr)


def walk(expr: Expr) -> Iterator[Expr]:
    """The node and all below it, each once per occurrence."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def transform(change: Callable[[Expr], Expr], expr: Expr) -> Expr:
    """Rewrite bottom-up: children first, then the node itself."""
    return change(map_children(lambda child: transform(change, child), expr))


def map_expressions(change: Callable[[Expr], Expr], function: Function) -> Function:
    """The same function with every right-hand side and output replaced by ``change(it)``."""
    return replace(
        function,
        equations=tuple(replace(equation, value=change(equation.value)) for equation in function.equations),
        outputs=tuple(replace(output, value=change(output.value)) for output in function.outputs),
    )


def values(function: Function) -> Iterator[Expr]:
    """Every expression of a function, in reading order: of its equations with their conditions, and of its outputs."""
    for equation in function.equations:
        yield equation.value
        if equation.when is not None:
            yield equation.when
    yield from (output.value for output in function.outputs)


def nodes(function: Function) -> Iterator[Expr]:
    """Every node of a function, in reading order."""
    return (node for value in values(function) for node in walk(value))
