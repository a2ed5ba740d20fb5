"""Arithmetic at its edges: every operator on 0, infinities, NaN, and the largest and smallest numbers, in every way.

An operator is folded, computed by the interpreter, and written for Python numbers, for 0-d tensors, for recorded
graphs, and for tensors, also in place. All must give what its reference means in IEEE 754; the sign of a zero is no
part of the meaning. What differs by nature is said in `differs`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from optforge import runtime
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.intervals import Interval
from optforge.compiler.ir.names import FunctionName
from optforge.compiler.ir.operators import CAREFUL, OPERATORS, ROWS, Operator, Want
from optforge.compiler.ir.printer import apply, literal, natural_type
from optforge.compiler.ir.types import FULL, SCALAR, Kind, Phase, Type, Universe
from optforge.compiler.load import compile_source
from optforge.compiler.passes.careful import with_care
from optforge.compiler.passes.fold import simplify
from optforge.compiler.targets.torch.expressions import Writer
from optforge.runtime.recording import tracing

NUMBERS = (0.0, -0.0, 0.5, 1.0, -1.0, 2.0, -3.0, 7.25, 1e308, -1e308, 1e-320, -1e-320, math.inf, -math.inf, math.nan)
NAMES = {(ir.InputSource.ARGUMENT, f"x{index}"): f"x{index}" for index in range(3)}
ELEMENTWISE = [row for row in ROWS if row.elementwise and row.name not in ("fill", "lerp") and row.domain != "noise"]
SCALARS = [row for row in ELEMENTWISE if row.scalar is not None]
by_name = pytest.mark.parametrize("row", SCALARS, ids=lambda row: row.name)

Values = tuple[Any, ...]


def edges(row: Operator) -> list[Values]:
    """Every combination of special values."""
    return list(itertools.product(*[(False, True) if p.want is Want.BOOLEAN else NUMBERS for p in row.parameters]))


def meaning(row: Operator, values: Values) -> float:
    """What the reference gives on arrays of one element."""
    with np.errstate(all="ignore"):
        return float(row.reference(*(np.array(value).reshape(1, 1) for value in values)).item())


def same(found: Any, wanted: float) -> bool:
    """Equal, or both NaN, or so close that a function of the C library explains it."""
    if isinstance(found, complex):
        return False
    found = float(found)
    if found != found or wanted != wanted or math.isinf(found) or math.isinf(wanted):
        return found == wanted or (found != found and wanted != wanted)
    return math.isclose(found, wanted, rel_tol=1e-13, abs_tol=4 * math.ulp(0.0))


def is_tiny(x: float) -> bool:
    return 0 < abs(x) < 1e-300


def differs(row: Operator, phases: str, values: Values) -> bool:
    """What torch's loops over tensors do otherwise, and nobody should count on."""
    if "T" not in phases:
        return False
    match row.name, values:
        case "div", (float(), float(y)):
            return phases[0] == "S" and is_tiny(y)  # x times the reciprocal, which is infinite
        case "mod", (float(x), float(y)):
            return y != 0 and not abs(x / y) < 2**52  # a quotient that no longer tells its remainder
        case "pow", (float(x), float(y)):
            # A tensor of exponents knows no roots, which matter to -0 and -inf alone.
            return phases[1] == "T" and abs(y) == 0.5 and (x == 0 or x == -math.inf)
    return False


# The application of an operator, and its text


def applied(row: Operator, phases: str) -> ir.Expr:
    """The operator on inputs x0, x1, ... of which nothing is known: Python scalars (S) or tensors (T)."""
    inputs = []
    for index, (phase, parameter) in enumerate(zip(phases, row.parameters, strict=True)):
        kind = Kind.BOOLEAN if parameter.want is Want.BOOLEAN else Kind.NUMBER
        found = Type(kind, FULL, Phase.STREAM) if phase == "T" else Type(kind, SCALAR, Phase.STEP)
        inputs.append(ir.Input(f"x{index}", ir.InputSource.ARGUMENT, type=found))
    node = ir.Apply(row.name, tuple(inputs))
    return ir.Apply(row.name, node.arguments, type=natural_type(node))


def written(expr: ir.Expr, given: tuple[ir.Expr, ...] = (), in_place: bool = False) -> str:
    """The Python text of an expression of inputs."""
    function = with_care(ir.Function(FunctionName(), Universe.TENSOR, (), (ir.Output("y", expr),), given))
    writer = Writer(NAMES)
    value = function.outputs[0].value
    return writer.in_place(value) if in_place else writer.text(value)


def names(values: Values) -> dict[str, Any]:
    return {f"x{index}": value for index, value in enumerate(values)}


def computed(text: str, values: Values) -> Any:
    return eval(text, {**vars(runtime), "torch": torch, "math": math, "min": min, "max": max, **names(values)})


def require_meaning(row: Operator, way: str, compute: Callable[[Values], Any]) -> None:
    wrong = []
    for values in edges(row):
        try:
            found = compute(values)
        except Exception as problem:
            wrong.append((values, repr(problem)))
            continue
        if found is not None and not same(found, meaning(row, values)):
            wrong.append((values, found))
    assert not wrong, f"{row.name} {way}: {len(wrong)} wrong, such as {wrong[:3]}"


# Scalars


@by_name
def test_what_a_scalar_means(row: Operator) -> None:
    require_meaning(row, "of Python numbers", lambda values: row.scalar(*values))  # type: ignore[misc]


@by_name
def test_folding(row: Operator) -> None:
    """A literal where there is one; NaN, which no literal is, stays what gives it."""

    def fold(values: Values) -> Any:
        if row.name == "mul" and any(map(is_tiny, values)):  # which their decimals are not
            return None
        operands = [literal(value, spelled(value)) for value in values]
        folded = ir.transform(simplify, apply(row.name, *operands))
        found = evaluate_constant(folded, {})
        assert isinstance(folded, ir.Literal) or found != found
        return found

    require_meaning(row, "folded", fold)


def spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@by_name
def test_python_numbers(row: Operator) -> None:
    text = written(applied(row, "S" * row.values))
    require_meaning(row, text, lambda values: computed(text, values))


@by_name
def test_whole_python_numbers(row: Operator) -> None:
    """A step count or a dimension is an integer of Python."""
    text = written(applied(row, "S" * row.values))

    def compute(values: Values) -> Any:
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            return None
        return computed(text, tuple(value if isinstance(value, bool) else int(value) for value in values))

    small = [values for values in edges(row) if all(abs(value) < 10 for value in values)]
    wrong = [values for values in small if not same_whole(row, compute, values)]
    assert not wrong


def same_whole(row: Operator, compute: Callable[[Values], Any], values: Values) -> bool:
    found = compute(values)
    return found is None or same(found, meaning(row, tuple(x if isinstance(x, bool) else x + 0.0 for x in values)))


@by_name
def test_tensors_without_dimensions(row: Operator) -> None:
    """A capturable optimizer counts on the device, and has hypers there."""
    text = written(applied(row, "S" * row.values))

    def compute(values: Values) -> Any:
        if row.name == "mod" and differs(row, "TT", values):
            return None
        return computed(text, tuple(torch.tensor(value, dtype=dtype_of(values)) for value in values))

    if not row.boolean or row.parameters[0].want is not Want.BOOLEAN:
        require_meaning(row, f"{text} of 0-d tensors", compute)


@by_name
def test_recorded_numbers(row: Operator) -> None:
    """What a graph computes anew in each step, and the guards that it holds for."""
    names_of = [f"x{index}" for index in range(row.values)]
    scope = {**vars(runtime), "math": math}
    exec(f"def kernel({', '.join(names_of)}): return {written(applied(row, 'S' * row.values))}", scope)
    function = tracing._with_numbers(scope["kernel"])

    def compute(values: Values) -> Any:
        recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
        found = function(*(tracing.Number(recorder, x, name) for x, name in zip(values, names_of, strict=True)))
        assert tracing._condition(recorder.guards, names_of)(*values)
        if not isinstance(found, tracing.Number):
            return found
        assert same(found.value, meaning(row, values))
        (again,) = tracing._evaluator([found.text], names_of)(*values)
        return again

    require_meaning(row, "recorded", compute)


# Tensors


def columns(row: Operator, phases: str) -> Iterator[tuple[list[Values], Values]]:
    """Combinations of values that share those of the scalars, and the arguments that hold them all."""
    groups: dict[str, list[Values]] = {}
    for values in edges(row):
        if not differs(row, phases, values):
            shared = [value for value, phase in zip(values, phases, strict=True) if phase == "S"]
            groups.setdefault(repr(shared), []).append(values)
    for group in groups.values():
        arguments = [
            column[0] if phase == "S" else torch.tensor(column, dtype=dtype_of(column)).reshape(-1, 1)
            for column, phase in zip(zip(*group, strict=True), phases, strict=True)
        ]
        yield group, tuple(arguments)


def dtype_of(column: Values) -> torch.dtype | None:
    return None if isinstance(column[0], bool) else torch.float64


def phases_of(row: Operator) -> list[str]:
    return ["".join(each) for each in itertools.product("ST", repeat=row.values) if "T" in each]


TENSORS = [(row, phases) for row in ELEMENTWISE for phases in phases_of(row) if phases in row.torch or "*" in row.torch]
in_every_phase = pytest.mark.parametrize(("row", "phases"), TENSORS, ids=lambda each: getattr(each, "name", each))


@in_every_phase
def test_tensors(row: Operator, phases: str) -> None:
    text = written(applied(row, phases))
    wrong = []
    for group, arguments in columns(row, phases):
        found = computed(text, arguments).flatten().tolist()
        wrong += [(v, x) for v, x in zip(group, found, strict=True) if not same(x, meaning(row, v))]
    assert not wrong, f"{text}: {len(wrong)} wrong, such as {wrong[:3]}"


@pytest.mark.parametrize(
    ("row", "phases"),
    [(row, phases) for row, phases in TENSORS if row.in_place and phases[0] == "T"],
    ids=lambda each: getattr(each, "name", each),
)
def test_in_place(row: Operator, phases: str) -> None:
    text = written(applied(row, phases), in_place=True)
    for group, arguments in columns(row, phases):
        found = computed(text, arguments).flatten().tolist()
        assert all(same(x, meaning(row, v)) for v, x in zip(group, found, strict=True)), text


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "norm", "dot"])
def test_reductions_keep_infinities_and_nan(name: str) -> None:
    row = OPERATORS[name]
    node = ir.Apply(name, (*applied_values(row), literal_axis()))
    text = Writer(NAMES).text(ir.Apply(name, node.arguments, type=natural_type(node)))
    finite_or_not = (0.0, 1.0, -3.0, math.inf, -math.inf, math.nan)
    for elements in itertools.product(finite_or_not, repeat=3):
        arrays = [np.array(elements).reshape(3, 1), np.array([2.0, 0.0, -1.0]).reshape(3, 1)][: row.values]
        with np.errstate(all="ignore"):
            wanted = row.reference(*arrays, "all").item()
        found = computed(text, tuple(torch.tensor(array) for array in arrays)).item()
        assert same(found, wanted), (text, elements, found, wanted)


def applied_values(row: Operator) -> list[ir.Expr]:
    stream = Type(Kind.NUMBER, FULL, Phase.STREAM)
    return [ir.Input(f"x{index}", ir.InputSource.ARGUMENT, type=stream) for index in range(row.values)]


def literal_axis() -> ir.Literal:
    return ir.Literal("all", "all", type=Type(Kind.AXIS, SCALAR, Phase.CONSTANT))


# Python's whole numbers


WHOLE = """\
schedule Steep:
    hyper k = 3
    factor <- t * t * t * t * k * k * k * k

optimizer Whole:
    hyper k = 3
    for tensor:
        weight <- weight - grad * (%s)

penalty Heavy:
    hyper k = 3
    for tensor:
        loss <- k * k * k * k * sum(weight)
"""
TERMS = (
    "k * k * k * k * 1e-40",
    "1 / (k * k * k * k)",
    "floor(k^4)",
    "t * t * t * t",
    "1 / -z",
    "floor(2^t)",
    "mod(k, 7)",
)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("term", TERMS)
def test_whole_numbers_are_floats(term: str, capturable: bool) -> None:
    """A step is the same for 10**10 as for 1e10, and after so many steps that the power of their number is large."""
    cls = compile_source(WHOLE.replace("for tensor", "hyper z = 0\n    for tensor", 1) % term).Whole
    steps = []
    for k, z in ((10**30, 0), (1e30, 0.0)):
        p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = cls([p], k=k, z=z, backend="eager", capturable=capturable)
        optimizer.state[p]["step"] = torch.tensor(99_999.0 if "2^t" not in term else 99.0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        steps.append(p.detach().abs())
    assert torch.equal(*steps)


def test_whole_numbers_of_schedules_and_penalties_are_floats() -> None:
    module = compile_source(WHOLE % "k")
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    schedule = module.Steep(optimizer, k=10**30)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e120) and type(schedule.get_last_lr()[0]) is float
    assert module.Heavy([p.double()], k=10**30)().item() == pytest.approx(2e120)
    with pytest.raises(ValueError, match="invalid k: a float is expected, and none is as large"):
        module.Whole([p], k=10**400)


# Where Python's own operators are enough


def test_careful_operators_have_a_function() -> None:
    assert {row.careful for row in ROWS if row.careful} | {"sign", "floor", "round"} == set(vars(runtime.ieee))
    assert all(CAREFUL[row.name].scalar is row.scalar for row in ROWS if row.careful)


ENDS = st.sampled_from((*(x for x in NUMBERS if x == x), 1e-8, -1e-8, 0.1, 0.999, 1 - 2**-53, 3.0, 700.0, 2.0**53))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, high = sorted((draw(ENDS), draw(ENDS)))
    is_whole = low.is_integer() and high.is_integer() and draw(st.booleans())
    return Interval(low, high, draw(st.integers(0, 3)) == 3, draw(st.booleans()), is_whole)


def members(interval: Interval) -> list[float]:
    """Numbers of an interval: its ends, what lies near them, and special ones."""
    ends = (interval.low, interval.high)
    near = [math.nextafter(end, towards) for end in ends for towards in (-math.inf, math.inf)]
    middle = [(interval.low + interval.high) / 2, interval.low + 1, interval.high - 1]
    numbers = [*ends, *near, *middle, *NUMBERS]
    return [x for x in numbers if holds(interval, x)]


def holds(interval: Interval, x: float) -> bool:
    if x != x:
        return interval.has_nan
    is_fit = not interval.is_whole or math.isinf(x) or x.is_integer()
    return interval.low <= x <= interval.high and is_fit and (x != 0 or interval.has_zero)


@pytest.mark.parametrize("row", [row for row in SCALARS if not row.boolean], ids=lambda row: row.name)
def test_intervals_hold_what_operators_give(row: Operator) -> None:
    """The result lies where the intervals of the arguments say; Python's operator has it where they say so."""
    text = Writer({(ir.InputSource.ARGUMENT, f"x{index}"): f"x{index}" for index in range(3)}).text(
        applied(row, "S" * row.values)
    )

    @seed(1)
    @settings(max_examples=150, deadline=None, database=None)
    @given(st.tuples(*[intervals()] * row.values))
    def each(arguments: tuple[Interval, ...]) -> None:
        found, is_plain = row.interval(*arguments), row.is_plain(*arguments)
        for values in itertools.islice(itertools.product(*map(members, arguments)), 400):
            wanted = row.scalar(*values)  # type: ignore[misc]
            assert holds(found, wanted), (arguments, values, wanted, found)
            if is_plain:
                assert same(computed(text, values), wanted), (text, arguments, values)

    each()


@pytest.mark.parametrize("row", [row for row in SCALARS if row.careful], ids=lambda row: row.name)
def test_plain_operators_are_recognized(row: Operator) -> None:
    """An interval of one harmless number is enough for Python's own operator."""
    half = Interval(0.5, 0.5, has_nan=False)
    assert row.is_plain(*[half] * row.values)
    assert not row.is_plain(*[Interval()] * row.values)
