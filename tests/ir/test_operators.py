"""Every row of the operator table: what it writes for torch is what its reference means.

Each pattern (Python scalars and tensors in every combination, and in place) is evaluated on batches of matrices and
compared, matrix by matrix, with the NumPy reference; on Python scalars alone also with the row's scalar meaning.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from optforge import runtime
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import CAREFUL, OPERATORS, SETTINGS, STREAMS, Formal, Operator, Want
from optforge.compiler.ir.printer import literal, literal_type, natural_type
from optforge.compiler.ir.types import FULL, PER_COL, PER_ROW, SCALAR, Dim, Kind, Phase, Shape, Type
from optforge.compiler.targets.torch.expressions import Writer

BATCHES = ((), (3,), (2, 2))
SIZES = ((4, 3), (3, 5), (1, 4), (3, 1), (4, 4))
RANK: ir.Key = (ir.InputSource.DIMENSION, "r")
SQUARE: Shape = (Dim.ROWS, Dim.ROWS)
WITHOUT_PATTERN = {"fill", "index", "total", "whole", *STREAMS}  # written by the lowering and by the runtime
ONLY = {  # what passes make
    **{f"drawn_{name}": ["T"] for name in STREAMS},
    **{name: ["TTS"] for name in ("lerp", "accumulate")},
    **{row.name: ["S" * row.values] for row in CAREFUL.values()},
}
ELEMENTWISE_SHAPES = (FULL, PER_ROW, PER_COL)

VARIANTS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "orthogonalize": (
        (5.0, "newton_schulz", (), 0.0, "frobenius"),
        (8.0, "polar_express", (), 0.0, "frobenius"),
        (12.0, "exact", (), 0.0, "frobenius"),
        (5.0, "svd", (), 0.0, "frobenius"),
        (5.0, "polar_express", ((2.0, -1.5, 0.5), (3.4445, -4.775, 2.0315)), 0.0, "frobenius"),
        (2.0, "polar_express", (), 0.5, "frobenius"),
        (2.0, "polar_express", (), 0.0, "schatten4"),
        (5.0, "svd", (), 0.5, "schatten4"),
        (2.0, "polar_express", ((2.0, -1.5, 0.5),), 0.5, "schatten4"),
    ),
    "leading": ((1.0,),),
    **{f"drawn_{name}": ((0.0,), (7.0,)) for name in STREAMS},
    "mpower": ((-0.25,), (0.7,), (1.0,)),
    "quantile": ((0.3, "all"), (0.0, "row"), (1.0, "col"), (0.5, "row")),
    "inverse_root": ((2.0, 0.1), (4.0, 0.5), (1.0, 0.01)),
}


@dataclass(frozen=True)
class Example:
    """One application of an operator: phases of the values, and the settings."""

    operator: Operator
    phases: str
    settings: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.operator.name}-{self.phases}-{self.settings}"

    @property
    def node(self) -> ir.Apply:
        """The application to inputs called x0, x1, ... of the phases."""
        values: list[ir.Expr] = []
        for index, (phase, parameter) in enumerate(zip(self.phases, self.operator.parameters, strict=False)):
            kind = Kind.BOOLEAN if parameter.want is Want.BOOLEAN else Kind.NUMBER
            shape = self.shape(index, parameter) if phase == "T" else SCALAR
            found = Type(kind, shape, Phase.STREAM if phase == "T" else Phase.CONSTANT)
            values.append(ir.Input(f"x{index}", ir.InputSource.HYPER, type=found))
        node = ir.Apply(self.operator.name, (*values, *(setting(value) for value in self.settings)))
        return ir.Apply(node.operator, node.arguments, type=natural_type(node))

    def shape(self, index: int, parameter: Formal) -> Shape:
        if parameter.want in (Want.GRAM, Want.BASIS):
            return SQUARE
        if self.operator.name == "matmul":
            return FULL if index == 0 else FULL[::-1]
        if parameter.want is Want.SCALAR:
            return SCALAR
        return FULL if parameter.want is Want.MATRIX else ELEMENTWISE_SHAPES[index]

    def values(self, size: tuple[int, int], batch: tuple[int, ...], dtype: torch.dtype) -> list[Any]:
        """Random arguments from the operator's domain."""
        rng = np.random.default_rng(len(self.operator.name) + 10 * size[0] + size[1])
        sizes = {Dim.ONE: 1, Dim.ROWS: size[0], Dim.COLS: size[1]}
        found: list[Any] = []
        for index, value in enumerate(self.node.arguments[: self.operator.values]):
            parameter = self.operator.parameters[index]
            if self.phases[index] == "S":
                scalar = in_domain(self.operator, index, rng.standard_normal(), parameter)
                found.append(bool(scalar) if parameter.want is Want.BOOLEAN else float(scalar))
                continue
            assert value.type.shape is not None
            shape = (*batch, *(sizes[dim] for dim in value.type.shape))
            array = in_domain(self.operator, index, rng.standard_normal(shape), parameter)
            found.append(torch.tensor(array, dtype=dtype if array.dtype == np.float64 else None))
        return found


def setting(value: Any) -> ir.Literal:
    if value in ("all", "row", "col"):
        return ir.Literal(value, value, type=literal_type(value, True))
    spelling = f"{value:g}" if isinstance(value, float) else str(value)
    return literal(value, f'"{value}"' if isinstance(value, str) else spelling)


def in_domain(operator: Operator, index: int, x: Any, parameter: Formal) -> Any:
    """The random numbers moved to where the operator is well determined."""
    if parameter.want is Want.BOOLEAN:
        return np.asarray(x) > 0
    if parameter.want in (Want.GRAM, Want.BASIS):
        x = np.asarray(x)
        return x @ np.swapaxes(x, -1, -2) + np.diag(1.0 + np.arange(x.shape[-1]))
    if parameter.want is Want.SCALAR:
        return np.abs(x) + 0.1
    match operator.domain:
        case "positive":
            return np.abs(x) + 0.1 if index == 0 else np.asarray(x)
        case "nonzero":
            return np.sign(x) * (np.abs(x) + 0.5) if index == 1 else np.asarray(x)
        case "noise":
            return (np.asarray(x) * 2**28).astype(np.int32)
        case "rounding":
            return np.asarray(x) * 3 + 0.137 if index == 0 else np.abs(x) + 0.7
        case _:
            return np.asarray(x)


def examples() -> Iterator[Example]:
    for operator in OPERATORS.values():
        if operator.name in WITHOUT_PATTERN or not operator.values:
            continue
        per = any(parameter.want is Want.AXIS for parameter in operator.parameters)
        variants = VARIANTS.get(operator.name, (("all",), ("row",), ("col",)) if per else ((),))
        for phases in ONLY.get(operator.name, combinations(operator)):
            for settings in variants:
                yield Example(operator, phases, settings)


def combinations(operator: Operator) -> list[str]:
    wants = [parameter.want for parameter in operator.parameters if parameter.want not in SETTINGS]
    choices = ["T" if want in (Want.MATRIX, Want.GRAM, Want.BASIS) else "ST" for want in wants]
    return ["".join(each) for each in itertools.product(*choices)]


def evaluate(text: str, values: list[Any], dtype: torch.dtype = torch.float64) -> Any:
    names = {f"x{index}": value for index, value in enumerate(values)} | {"weight": torch.zeros((), dtype=dtype)}
    return eval(text, {**vars(runtime), "torch": torch, "math": math, "abs": abs, "min": min, "max": max, **names})


def writer(example: Example) -> Writer:
    return Writer({(ir.InputSource.HYPER, f"x{index}"): f"x{index}" for index in range(len(example.phases))})


def reference(example: Example, values: list[Any], item: tuple[int, ...]) -> Any:
    """What the row means for one matrix of the batch."""
    arrays = [v[item].numpy() if isinstance(v, torch.Tensor) else np.full((1, 1), v) for v in values]
    return example.operator.reference(*arrays, *example.settings)


ALL = list(examples())
TENSORS = [example for example in ALL if "T" in example.phases]


def test_every_other_row_has_a_pattern() -> None:
    assert {name for name, row in OPERATORS.items() if not row.torch} == WITHOUT_PATTERN
    assert {example.operator.name for example in ALL} == set(OPERATORS) - WITHOUT_PATTERN - {"place"}


@pytest.mark.parametrize("example", TENSORS, ids=str)
def test_emission_is_the_reference(example: Example) -> None:
    for size, batch in itertools.product(SIZES, BATCHES):
        values = example.values(size, batch, torch.float64)
        before = [value.clone() if isinstance(value, torch.Tensor) else value for value in values]
        result = evaluate(writer(example).text(example.node), values)
        assert all(np.array_equal(old, new) for old, new in zip(before, values, strict=True))
        for item in itertools.product(*(range(length) for length in batch)):
            expected = reference(example, values, item)
            found = result[item].numpy()
            assert found.shape == expected.shape
            assert found.dtype == (np.bool_ if example.operator.boolean else np.float64)
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("example", [e for e in TENSORS if e.operator.in_place and e.phases[0] == "T"], ids=str)
def test_in_place_overwrites_its_first_argument_and_nothing_else(example: Example) -> None:
    for size, batch in itertools.product(SIZES, BATCHES):
        values = example.values(size, batch, torch.float64)
        expected = evaluate(writer(example).text(example.node), values)
        others = [value.clone() if isinstance(value, torch.Tensor) else value for value in values[1:]]
        found = evaluate(writer(example).in_place(example.node), values)
        assert found is values[0]
        assert torch.equal(found, expected)
        assert all(np.array_equal(old, new) for old, new in zip(others, values[1:], strict=True))


@pytest.mark.parametrize("example", [e for e in ALL if "T" not in e.phases], ids=str)
def test_python_scalars(example: Example) -> None:
    operator = example.operator
    assert operator.scalar is not None
    for size in SIZES:
        values = example.values(size, (), torch.float64)
        found = evaluate(writer(example).text(example.node), values)
        assert found == pytest.approx(operator.scalar(*values, *example.settings), rel=1e-14)
        assert found == pytest.approx(reference(example, values, ()).item(), rel=1e-14)


@pytest.mark.parametrize("example", TENSORS, ids=str)
def test_single_precision_stays_single(example: Example) -> None:
    values = example.values((4, 3), (2,), torch.float32)
    node = example.node
    found = evaluate(writer(example).text(node), values, torch.float32)
    assert found.dtype == (torch.bool if example.operator.boolean else torch.float32)
    if example.operator.in_place and example.phases[0] == "T":
        assert evaluate(writer(example).in_place(node), values).dtype == found.dtype


@pytest.mark.parametrize("shape", list(itertools.product(Dim, Dim)), ids=str)
@pytest.mark.parametrize("value", [0.25, True])
def test_fill_gives_the_shape_that_is_asked_for(shape: Shape, value: float | bool) -> None:
    kind = Kind.BOOLEAN if value is True else Kind.NUMBER
    node = ir.Apply("fill", (literal(value, str(value).lower()),), type=Type(kind, shape, Phase.STREAM))
    rows, cols = 4, 3
    sizes = {Dim.ONE: 1, Dim.ROWS: rows, Dim.COLS: cols, Dim.RANK: 2}
    for batch in BATCHES:
        weight = torch.zeros((*batch, rows, cols), dtype=torch.float32)
        found = eval(Writer({RANK: "r"}, rank=RANK).text(node), {"torch": torch, "weight": weight, "r": 2})
        assert found.shape == (*batch, *(sizes[dim] for dim in shape))
        assert found.dtype == (torch.bool if value is True else torch.float32)
        assert bool((found == value).all())


@pytest.mark.parametrize("per", ["row", "col"])
def test_places_are_numbered_from_zero(per: str) -> None:
    node = ir.Apply("place", (setting(per),))
    node = ir.Apply("place", node.arguments, type=natural_type(node))
    for batch in BATCHES:
        weight = torch.zeros((*batch, 4, 3), dtype=torch.float32)
        found = eval(Writer({}).text(node), {**vars(runtime), "weight": weight})
        expected = OPERATORS["place"].reference(per, (4, 1) if per == "row" else (1, 3))
        assert found.shape == (*batch, *expected.shape) and found.dtype == torch.float32 and found.is_contiguous()
        np.testing.assert_array_equal(found.numpy(), np.broadcast_to(expected, found.shape))
    np.testing.assert_array_equal(OPERATORS["index"].reference(np.zeros((4, 3)), per), expected)


@pytest.mark.parametrize("shape", list(itertools.product(Dim, Dim)), ids=str)
def test_fill_spreads_tensors(shape: Shape) -> None:
    x = ir.Input("x", ir.InputSource.STREAM, type=Type(Kind.NUMBER, SCALAR, Phase.STREAM))
    node = ir.Apply("fill", (x,), type=Type(Kind.NUMBER, shape, Phase.STREAM))
    sizes = {Dim.ONE: 1, Dim.ROWS: 4, Dim.COLS: 3, Dim.RANK: 2}
    weight, value = torch.zeros(2, 4, 3), torch.full((2, 1, 1), 0.5)
    names = {(ir.InputSource.STREAM, "x"): "x", RANK: "r"}
    found = eval(Writer(names, rank=RANK).text(node), {"torch": torch, "weight": weight, "x": value, "r": 2})
    assert found.shape == (2, *(sizes[dim] for dim in shape))
    assert bool((found == 0.5).all())
