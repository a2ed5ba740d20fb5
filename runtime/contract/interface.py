"""What generated modules are made of: kernels, states, events and rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

ROLES = ("matrix", "conv", "embedding", "head", "vector")
DIMENSIONS = ("rows", "cols")
OWN_DIMENSIONS = ("outputs", "inputs")  # of the parameter itself, where a rule with an orientation sees its transpose
PARAMETER = ("weight", "grad")  # what kernels call the parameter
NOISE = "(noise)"  # an int32 for each element, of which kernels draw, under a name that no state can have
GIVEN_MARK = "given "  # in front of the inputs of kernels that come with the call of an event
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PRECISIONS = ("plain", "kahan", "stochastic", "master")


Shards = Callable[..., Generator[Any, Any, tuple[Any, ...]]]


@dataclass(frozen=True)
class Kernel:
    """One pure function over a batch of units: `function(*inputs, **scalars)` returns the tuple of `outputs`.

    `inputs` are "weight", "grad", names of states, "(noise)", and "given NAME" for what an event is given; `outputs`
    are "weight" and names of states. What is not there is what the signature says: the positional parameters, the
    keywords, and of the inputs all but gradient and noise, which is what a step returns. The function may overwrite a
    weight or state that it also returns, and nothing else.
    `layout` says which elements of a parameter interact, and so what the function is given:

    - "elementwise": none; any contiguous piece of parameters, 1-D.
    - "tensor": those of one parameter; (batch, numel, 1), and (batch, 1, 1) for one value per parameter.
    - "matrix": those of one matrix, by rows and columns; (batch, rows, cols), and 1 where a value is per row or column.

    `along` are the dimensions, "rows" and "cols", along which elements of one matrix interact; not given: both, and in
    the elementwise layout none. What is cut along another dimension is computed piece by piece. The keywords `rows` and
    `cols` are the sizes of whole matrices, `outputs` and `inputs` those that they have in the parameter.

    `shards` is the same for a part of each matrix, as a generator: it takes `over` as well, yields what it asks other
    ranks for, and is resumed with the answers. Without it, matrices go to the ranks that own them as a whole, and back.
    `split_shards` is that for parameters that are `split` into several matrices, whose rows may lie on any ranks. The
    states `owned`, or `split_owned`, are whole on the ranks that own their matrices, and nowhere else.

    `sums` run before, in their order, for all parameters that have a gradient, those of other rules too unless they are
    `over` "rule" alone; the sum of each of their outputs over all these is from then on a scalar of its name.
    """

    function: Callable[..., tuple[Any, ...]]
    layout: str
    inputs: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    fused: Callable[..., None] | None = None
    sums: tuple[Kernel, ...] = ()
    along: tuple[str, ...] | None = None
    shards: Shards | None = None
    owned: tuple[str, ...] = ()
    split_shards: Shards | None = None
    split_owned: tuple[str, ...] = ()
    over: str = "all"

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters.values()
        keywords = tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
        inputs = self.inputs or tuple(each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD)
        if self.along is None:
            object.__setattr__(self, "along", () if self.layout == "elementwise" else DIMENSIONS)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "scalars", self.scalars or keywords)
        object.__setattr__(
            self, "outputs", self.outputs or tuple(name for name in inputs if name not in ("grad", NOISE))
        )


@dataclass(frozen=True)
class Rank:
    """The dimension that a rule declares, "rank" in shapes: what kernels call its size, and how that follows.

    `function` takes `rows`, `cols` and hypers by keyword; of the number it gives the size is the whole part, at least 1
    and at most the smaller of both sides.
    """

    name: str
    function: Callable[..., float]

    @property
    def scalars(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

    def size(self, unit: tuple[int, ...], hypers: Mapping[str, Any], turned: bool) -> int:
        """The size for matrices of this unit."""
        outputs, inputs = unit[::-1] if turned else unit
        known = {**hypers, "rows": unit[0], "cols": unit[1], "outputs": outputs, "inputs": inputs}
        value = self.function(**{name: known[name] for name in self.scalars})
        return int(min(max(value, 1), *unit))


@dataclass(frozen=True)
class State:
    """A stream's value of the step before. Each of the two dimensions of `shape` is "rows", "cols", "rank" or 1.

    A `shared` state is one number, the same for all parameters of the rule, each of which keeps a copy: one that begins
    later begins with it. It says the hypers that this number follows from, which are then those of all groups.
    """

    name: str
    shape: tuple[str | int, str | int] = ("rows", "cols")
    shared: tuple[str, ...] | None = None

    @property
    def full(self) -> bool:
        """Whether there is one value per element of the parameter."""
        return self.shape == ("rows", "cols")

    @property
    def is_per_row(self) -> bool:
        """Whether there is one value per row."""
        return self.shape == ("rows", 1)


def _form_of(given: State) -> State:
    """What an event is given, by the name that kernels have for it: a state may be called as the argument is."""
    return replace(given, name=GIVEN_MARK + given.name)


@dataclass(frozen=True)
class Event:
    """What `SpecOptimizer.fire(name)` runs.

    `renamed` says what the kernels call an argument that a hyper shares its name with. What is `given` are arguments
    that each parameter has its own tensor of, in the form of a state: the kernel's inputs "given NAME". An event that
    `undoes` another puts back the weights that the other has replaced; between the two nothing may step.
    """

    name: str
    kernel: Kernel
    renamed: Mapping[str, str] = field(default_factory=dict)
    undoes: str | None = None
    given: tuple[State, ...] = ()

    def scalars(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names that the kernels have for them."""
        return {self.renamed.get(name, name): value for name, value in arguments.items()}


@dataclass(frozen=True)
class Rule:
    """One step for the parameters of some roles. `init` gives states their first value (zero without it).

    With an `orientation` kernels see every matrix with at most as many rows as columns ("wide") or the other way round
    ("tall"): others are transposed.
    `lr_ratio` is the hyper that the rule multiplies lr with wherever it reads either, if there is one.
    Under a rule that `keeps_zero` a weight of zeros stays so, whatever its gradients are.
    """

    name: str
    roles: tuple[str, ...]
    states: tuple[State, ...]
    step: Kernel
    init: Kernel | None = None
    events: tuple[Event, ...] = ()
    lr_ratio: str | None = None
    keeps_zero: bool = False
    orientation: str | None = None
    rank: Rank | None = None

    def __post_init__(self) -> None:
        """ValueError for states whose names the state uses otherwise, or that the rule's layout cannot hold."""
        reserved = {*PARAMETER, "step", "kahan", "master", *(f"{event.name}_step" for event in self.events)}
        for state in self.states:
            if state.name in reserved:
                raise ValueError(f"a state of the rule {self.name!r} has the reserved name {state.name!r}")
            if self.step.layout == "elementwise" and not state.full:
                raise ValueError(f"state {state.name!r} of the elementwise rule {self.name!r} is not elementwise")

    @property
    def kernels(self) -> list[Kernel]:
        """All that is computed for a parameter of the rule."""
        of_events = [event.kernel for event in self.events]
        found = [self.step, *([self.init] if self.init else []), *of_events]
        return [kernel for last in found for kernel in (*last.sums, last)]

    def event(self, name: str) -> Event | None:
        return next((event for event in self.events if event.name == name), None)
