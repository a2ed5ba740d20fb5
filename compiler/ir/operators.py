"""The operator table: one row per operator, read by every stage.

Adding an operator means adding a row here and a fixture. A row says how the operator is called,
which shape it gives, how it is written in torch for Python scalars and for tensors (with any
leading batch dimensions), and what it means: in NumPy float64 on 2-D arrays, and on Python floats.

Torch patterns have holes ``{index:level}``: the argument's text, put in parentheses if it binds
less tightly than ``level``; ``{like}`` is a full tensor. The key of a pattern spells the phases of the value arguments,
``S`` for a Python scalar and ``T`` for a tensor; ``*`` stands for every combination without a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from optforge.compiler.ir import ieee, intervals
from optforge.compiler.ir.intervals import ANYTHING, Interval
from optforge.compiler.ir.meanings.arrays import (
    lazy_numpy,
    numpy_function,
    reduced,
    reference_cholesky,
    reference_eigenbasis,
    reference_eigenvalues,
    reference_index,
    reference_inverse_root,
    reference_mpower,
    reference_orthogonalize,
    reference_place,
    reference_power,
    reference_qr,
    reference_quantile,
    reference_rank,
    reference_sign,
    reference_solve,
)
from optforge.compiler.ir.meanings.draws import (
    reference_corner,
    reference_normal,
    reference_sign_noise,
    reference_uniform,
)
from optforge.compiler.ir.types import PER_COL, PER_ROW, SCALAR, Dim, Shape, broadcast, broadcast_dims

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Level(IntEnum):
    """How tightly Python text binds, loosest first."""

    ANY = 0
    OR = 1
    AND = 2
    NOT = 3
    COMPARE = 4
    BIT_OR = 5
    BIT_AND = 6
    SUM = 7
    PRODUCT = 8
    UNARY = 9
    POWER = 10
    POSTFIX = 11


@dataclass(frozen=True, slots=True)
class Pattern:
    """Python text with holes, and how tightly it binds."""

    text: str
    level: Level = Level.POSTFIX


class Want(Enum):
    """What an argument must be."""

    VALUE = "a number"
    BOOLEAN = "true or false"
    ANY = "a number, true, false or a string"
    MATRIX = "a matrix"
    GRAM = "a (rows, rows) or (cols, cols) matrix"
    BASIS = "a square matrix, or one with the rank as its columns"
    LAID = "a value that is laid out like the weight, its rows or its columns, or a scalar"
    SCALAR = "a scalar"
    AXIS = "row or col"
    NUMBER = "a constant number"
    RANK = "the dimension that the rule declares"
    TEXT = "a string"
    TRIPLES = "triples of coefficients"
    RULE = "what stands after `for` in the rule"


@dataclass(frozen=True, slots=True)
class Formal:
    """A formal parameter; ``default`` is the spelling of a literal, None for a required argument."""

    name: str
    want: Want
    default: str | None = None
    choices: tuple[str, ...] = ()
    keyword_only: bool = False
    is_later: bool = False  # checkpoints are older than it: at its default it is no part of a fingerprint


class Across(Enum):
    """What an operator needs along a dimension of which no rank has all."""

    ELEMENTWISE = "elementwise"  # an element of the result needs those at its own place
    SUM = "sum"  # what each rank has of it is added
    MEAN = "mean"  # added, and divided by the size of the whole
    NORM = "norm"  # the squares are added
    MAX = "max"  # the largest of all ranks is the largest
    MIN = "min"  # the smallest of all ranks is the smallest
    TRANSPOSE = "transpose"  # the result is cut along the same dimension
    PRODUCT = "product"  # a sum over the inner dimension
    ORDER = "order"  # any element along the axis may need every other there
    WHOLE = "whole"  # any element may need every other
    TOTAL = "total"  # a sum over all parameters as well


REDUCTIONS = (Across.SUM, Across.MEAN, Across.NORM, Across.MAX, Across.MIN)
OF_MATRICES = (Across.TRANSPOSE, Across.PRODUCT, Across.WHOLE)


class ShapeProblem(Exception):
    """The arguments' shapes do not fit: ``left`` and ``right`` are argument positions.

    ``likely`` is what the result's shape would be if they did.
    """

    def __init__(self, left: int, right: int, likely: Shape | None = None) -> None:
        self.left, self.right, self.likely = left, right, likely
        super().__init__(f"arguments {left} and {right}")


Shapes = tuple["Shape | None", ...]
ShapeRule = Callable[[Shapes, str], "Shape | None"]


# What an operator costs: terms, each a factor times a product of sizes. The factors are those of the usual
# algorithms, so only the sizes are meant to be relied on. A rule sees the shapes of the values, the shape of the
# result, and the settings (None where they are not known).

MIN = "min"  # the smaller of rows and cols
Size = Dim | str
Terms = tuple[tuple[float, tuple[Size, ...]], ...]
CostRule = Callable[[tuple[Shape, ...], Shape, tuple[Any, ...]], Terms]


def smaller(one: Dim, two: Dim) -> Size:
    if one is two:
        return one
    return Dim.ONE if Dim.ONE in (one, two) else MIN


def once_per_result(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    return ((1, result),)


def once_per_argument(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    whole = elementwise_shape(shapes, "all")
    return ((len(shapes), whole or SCALAR),)


def no_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    return ()


def product_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    return ((2, (*shapes[0], shapes[1][1])),)


def diagonal_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    return ((1, (shapes[0][0],)),)


def cubic_cost(factor: float) -> CostRule:
    """The cost of a dense factorization."""

    def cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
        rows, cols = shapes[0]
        return ((factor, (rows, cols, smaller(rows, cols))),)

    return cost


def sorting_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    """The logarithm is taken for a factor."""
    return ((20, shapes[0]),)


def solution_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    side = shapes[0][0]
    return ((2 / 3, (side, side, side)), (2, (side, side, shapes[1][1])))


def orthogonalization_cost(shapes: tuple[Shape, ...], result: Shape, settings: tuple[Any, ...]) -> Terms:
    """A Gram matrix, its square, and one product for each iteration, on the short side; a Gram matrix for its norm."""
    rows, cols = shapes[0]
    side = smaller(rows, cols)
    steps, method, coefficients, _, scale = settings
    if method == "svd" and not coefficients:
        return ((22, (rows, cols, side)),)
    count = len(coefficients or ()) or (steps if isinstance(steps, float) else 1)
    grams = 2 * count + (scale == "schatten4")
    return ((2 * grams, (rows, cols, side)), (2 * count, (side, side, side)))


@dataclass(frozen=True, slots=True)
class Operator:
    """One row. ``reference`` works on 2-D float64 arrays, ``scalar`` on Python values.

    ``interval`` is what the result may be for scalars from intervals. Where Python's own operator has not the
    meaning of ``scalar`` for every number, ``is_plain`` says for which intervals it has, and ``careful`` is the
    runtime's function for all others. ``called`` is the name in a spec where several rows have one: they take different
    numbers of values. One that takes no value is told the size of its result, by the last argument of ``reference``.
    ``writes_early`` says that ``in_place`` writes its first argument before it reads the others.
    """

    name: str
    across: Across
    doc: str
    parameters: tuple[Formal, ...]
    shape: ShapeRule
    torch: Mapping[str, Pattern]
    reference: Callable[..., Any]
    scalar: Callable[..., Any] | None = None
    in_place: Pattern | None = None
    symbol: str = ""
    called: str = ""
    commutative: bool = False
    boolean: bool = False
    internal: bool = False
    domain: str = "any"
    imports: tuple[str, ...] = field(default=())
    cost: CostRule = once_per_result
    interval: Callable[..., Interval] = lambda *arguments: ANYTHING
    careful: str = ""
    is_stream: bool = False  # also where no argument is one
    is_plain: Callable[..., bool] = lambda *arguments: True
    writes_early: bool = False

    @property
    def elementwise(self) -> bool:
        return self.across is Across.ELEMENTWISE

    @property
    def reduces(self) -> bool:
        """Whether an axis is an argument, along which it leaves one number."""
        return self.across in REDUCTIONS

    @property
    def needs_matrix(self) -> bool:
        """Whether it has no meaning for tensors of any shape."""
        return self.across in OF_MATRICES

    @property
    def group(self) -> str:
        """Below which heading the operator is listed."""
        if self.across is Across.TOTAL:
            return "across parameters"
        if self.across is Across.ORDER:
            return "order"
        if self.name in STREAMS:
            return "random"
        return "reduction" if self.reduces else "matrix" if self.needs_matrix else "elementwise"

    @property
    def values(self) -> int:
        """How many leading arguments are tensors or scalars (the rest are settings)."""
        return sum(parameter.want not in SETTINGS for parameter in self.parameters)

    @property
    def signature(self) -> str:
        shown = [
            parameter.name
            + (
                f"={'row|col' if parameter.want is Want.AXIS else parameter.default}"
                if parameter.default is not None
                else ""
            )
            for parameter in sorted(self.parameters, key=lambda each: each.keyword_only)
        ]
        return f"{self.word}({', '.join(shown)})"

    @property
    def word(self) -> str:
        """How a spec says it: a symbol, or the name of a function."""
        return self.symbol or self.called or self.name


SETTINGS = (Want.AXIS, Want.NUMBER, Want.TEXT, Want.TRIPLES, Want.RULE, Want.RANK)
EVERYTHING, OWN_RULE = "all", "own"  # the values of a setting that is a rule


# Shape rules


def elementwise_shape(shapes: Shapes, axis: str) -> Shape | None:
    result: Shape | None = shapes[0]
    for position, shape in enumerate(shapes[1:], start=1):
        try:
            result = broadcast(result, shape)
        except ValueError:
            raise ShapeProblem(0 if position == 1 else position - 1, position, result) from None
    return result


def reduce_shape(shapes: Shapes, axis: str) -> Shape | None:
    whole = elementwise_shape(shapes, axis)
    if axis == "all":
        return SCALAR
    if whole is None:
        return None
    return (whole[0], Dim.ONE) if axis == "row" else (Dim.ONE, whole[1])


def product_shape(shapes: Shapes, axis: str) -> Shape | None:
    left, right = shapes
    if left is None or right is None:
        return None
    if left[1] is not right[0]:
        raise ShapeProblem(0, 1, (left[0], right[1]))
    return left[0], right[1]


def solution_shape(shapes: Shapes, axis: str) -> Shape | None:
    """That of the x for which s x = b."""
    left, right = shapes
    if left is None or right is None:
        return None
    if left[0] is not right[0]:
        raise ShapeProblem(0, 1, (left[0], right[1]))
    return right


def swap_shape(shapes: Shapes, axis: str) -> Shape | None:
    shape = shapes[0]
    return shape and (shape[1], shape[0])


def same_shape(shapes: Shapes, axis: str) -> Shape | None:
    return shapes[0]


def square_shape(shapes: Shapes, axis: str) -> Shape | None:
    """That of a Gram matrix, of which one side tells the other."""
    shape = shapes[0]
    if shape is None:
        return None
    side = broadcast_dims(*shape) or shape[0]
    return side, side


def spectrum_shape(shapes: Shapes, axis: str) -> Shape | None:
    """A value for each column of the eigenbasis."""
    whole = square_shape(shapes, axis)
    return whole and (Dim.ONE, whole[1])


def rank_shape(shapes: Shapes, axis: str) -> Shape | None:
    return shapes[0]


def place_shape(shapes: Shapes, axis: str) -> Shape | None:
    return PER_ROW if axis == "row" else PER_COL


def basis_shape(shapes: Shapes, axis: str) -> Shape | None:
    """That of a matrix whose columns are made orthonormal: square, or with the rank as its columns."""
    shape = shapes[0]
    return shape if shape is not None and shape[1] is Dim.RANK else square_shape(shapes, axis)


def leading_shape(shapes: Shapes, axis: str) -> Shape | None:
    shape = shapes[0]
    return shape and (shape[0], Dim.RANK)


def scalar_shape(shapes: Shapes, axis: str) -> Shape | None:
    return SCALAR


# The table


def one(text: str, level: Level = Level.POSTFIX) -> dict[str, Pattern]:
    return {"*": Pattern(text, level)}


VALUE = (Formal("x", Want.VALUE),)
TWO = (Formal("x", Want.VALUE), Formal("y", Want.VALUE))
PER = Formal("per", Want.AXIS, "all", keyword_only=True)
SCALES = ("frobenius", "schatten4")
METHODS = ("newton_schulz", "polar_express", "exact", "svd")


def arithmetic(name: str, symbol: str, text: str, level: Level, doc: str, scalar: Any, **more: Any) -> Operator:
    return Operator(
        name, Across.ELEMENTWISE, doc, TWO, elementwise_shape, one(text, level), scalar, scalar,
        symbol=symbol, **more,
    )  # fmt: skip


def unary(name: str, doc: str, scalar: Any, interval: Any, **more: Any) -> Operator:
    return Operator(
        name, Across.ELEMENTWISE, doc, VALUE, elementwise_shape,
        {"S": Pattern(f"math.{name}({{0}})"), "T": Pattern(f"{{0:postfix}}.{name}()")},
        numpy_function(name), scalar, Pattern(f"{{0:postfix}}.{name}_()"), interval=interval, **more,
    )  # fmt: skip


def comparison(name: str, symbol: str, numpy_name: str, scalar: Any) -> Operator:
    want = Want.ANY if symbol in ("==", "!=") else Want.VALUE
    return Operator(
        name, Across.ELEMENTWISE, f"{symbol} as true or false", (Formal("x", want), Formal("y", want)),
        elementwise_shape, one(f"{{0:bit_or}} {symbol} {{1:bit_or}}", Level.COMPARE),
        numpy_function(numpy_name), scalar, symbol=symbol, boolean=True,
    )  # fmt: skip


def reduction(name: str, across: Across, doc: str, numpy_reduce: Callable[..., Any]) -> Operator:
    """A reduction, which leaves a scalar as it is."""
    return Operator(
        name, across, doc, (*VALUE, PER), reduce_shape,
        {"S": Pattern("{0}"), "T": Pattern(f"{{0:postfix}}.{name}(dim={{1}}, keepdim=True)")},
        reduced(numpy_reduce), lambda x, axis: x, cost=once_per_argument, interval=lambda x, axis: x,
    )  # fmt: skip


def matrix(
    name: str, doc: str, parameters: tuple[Formal, ...], shape: ShapeRule, reference: Any, cost: CostRule
) -> Operator:
    """A whole-matrix operator, written as a call of the runtime's function of the same name."""
    holes = ", ".join(f"{{{index}}}" for index in range(len(parameters)))
    return Operator(
        name, Across.WHOLE, doc, parameters, shape, one(f"{name}({holes})"), reference, imports=(name,), cost=cost,
    )  # fmt: skip


def stream(name: str, doc: str) -> Operator:
    """A random stream as a spec has it; a draw stands for it once shapes are known."""
    own = Formal("stream", Want.NUMBER, "0", keyword_only=True)
    return Operator(
        name, Across.ELEMENTWISE, doc, (Formal("of", Want.LAID, "weight", keyword_only=True), own),
        same_shape, {}, lambda of, stream: of, is_stream=True,
    )  # fmt: skip


def draw(name: str, doc: str, reference: Any) -> Operator:
    """Random numbers that follow from the noise, by the runtime's function; a key tells streams apart."""
    return Operator(
        f"drawn_{name}", Across.ELEMENTWISE, doc, (Formal("noise", Want.VALUE), Formal("key", Want.NUMBER)),
        same_shape, one(f"{name}({{0}}, {{1}}, {{like}}.dtype)"), reference, imports=(name,), internal=True,
        domain="noise",
    )  # fmt: skip


GRAM = Formal("s", Want.GRAM)
BASIS = Formal("x", Want.BASIS)


def has_no_nan(*arguments: Interval) -> bool:
    return not any(argument.has_nan for argument in arguments)


def is_plain_power(x: Interval, y: Interval) -> bool:
    """Whether Python's power is real, divides by no zero and does not overflow."""
    if x.low < 0 and not (y.low == y.high and y.low.is_integer()):
        return False
    if x.has_zero and y.low < 0:
        return False
    return intervals.power(intervals.absolute(x), y).high < math.inf or (y.low >= 0 and y.high <= 1)


ROWS = (
    arithmetic("add", "+", "{0:sum} + {1:product}", Level.SUM, "sum", lambda x, y: x + y, commutative=True,
               in_place=Pattern("{0:postfix}.add_({1})"), interval=intervals.add),
    arithmetic("sub", "-", "{0:sum} - {1:product}", Level.SUM, "difference", lambda x, y: x - y,
               in_place=Pattern("{0:postfix}.sub_({1})"), interval=intervals.subtract),
    arithmetic("mul", "*", "{0:product} * {1:unary}", Level.PRODUCT, "product", lambda x, y: x * y, commutative=True,
               in_place=Pattern("{0:postfix}.mul_({1})"), interval=intervals.multiply),
    arithmetic("div", "/", "{0:product} / {1:unary}", Level.PRODUCT, "quotient", ieee.divide,
               in_place=Pattern("{0:postfix}.div_({1})"), domain="nonzero", interval=intervals.divide,
               careful="divide", is_plain=lambda x, y: not y.has_zero),
    Operator("pow", Across.ELEMENTWISE, "power", TWO, elementwise_shape,
             {"SS": Pattern("{0:postfix} ** {1:unary}", Level.POWER), "*": Pattern("power({0}, {1})")},
             reference_power, ieee.power, symbol="^", domain="positive",
             imports=("power",), interval=intervals.power, careful="power", is_plain=is_plain_power),
    Operator("neg", Across.ELEMENTWISE, "negation", VALUE, elementwise_shape, one("-{0:unary}", Level.UNARY),
             lambda x: -x, lambda x: -x, Pattern("{0:postfix}.neg_()"), symbol="-",
             interval=intervals.negate),
    unary("sqrt", "square root", ieee.sqrt, intervals.sqrt, domain="positive",
          careful="sqrt", is_plain=lambda x: x.low >= 0),
    unary("exp", "exponential", ieee.exp, intervals.exp, domain="small",
          careful="exp", is_plain=lambda x: intervals.exp(x).high < math.inf),
    unary("log", "natural logarithm", ieee.log, intervals.log, domain="positive",
          careful="log", is_plain=lambda x: x.low > 0),
    unary("log1p", "natural logarithm of 1 + x, accurate for small x", ieee.log1p, intervals.log1p, domain="positive",
          careful="log1p", is_plain=lambda x: x.low > -1),
    Operator("abs", Across.ELEMENTWISE, "absolute value", VALUE, elementwise_shape,
             {"S": Pattern("abs({0})"), "T": Pattern("{0:postfix}.abs()")}, numpy_function("abs"), abs,
             Pattern("{0:postfix}.abs_()"), interval=intervals.absolute),
    Operator("sign", Across.ELEMENTWISE, "-1, 0 or 1, and 0 for NaN", VALUE, elementwise_shape,
             {"S": Pattern("ieee.sign({0})"), "T": Pattern("{0:postfix}.sign()")},
             reference_sign, ieee.sign, Pattern("{0:postfix}.sign_()"), interval=intervals.sign),
    unary("tanh", "hyperbolic tangent", math.tanh, intervals.tanh),
    unary("atan", "inverse tangent", math.atan, intervals.atan),
    unary("cos", "cosine", ieee.cos, intervals.wave, careful="cos", is_plain=lambda x: not x.may_be_infinite),
    unary("sin", "sine", ieee.sin, intervals.wave, careful="sin", is_plain=lambda x: not x.may_be_infinite),
    Operator("floor", Across.ELEMENTWISE, "largest integer not above", VALUE, elementwise_shape,
             {"S": Pattern("ieee.floor({0})"),  # math.floor makes an int
              "T": Pattern("{0:postfix}.floor()")},
             numpy_function("floor"), ieee.floor, Pattern("{0:postfix}.floor_()"),
             domain="rounding", interval=intervals.floor),
    Operator("round", Across.ELEMENTWISE, "nearest integer, of two the even one", VALUE, elementwise_shape,
             {"S": Pattern("ieee.round({0})"),  # Python's makes an int
              "T": Pattern("{0:postfix}.round()")},
             numpy_function("round"), ieee.round_to_even, Pattern("{0:postfix}.round_()"),
             domain="rounding", interval=intervals.round_to_even),
    Operator("mod", Across.ELEMENTWISE, "remainder with the sign of the divisor", TWO, elementwise_shape,
             one("{0:product} % {1:unary}", Level.PRODUCT), numpy_function("mod"), ieee.remainder,
             domain="rounding", interval=intervals.remainder,
             careful="remainder", is_plain=lambda x, y: not y.has_zero),
    Operator("min", Across.ELEMENTWISE, "the smaller of two", TWO, elementwise_shape,
             {"SS": Pattern("min({0}, {1})"), "TS": Pattern("{0:postfix}.clamp(max={1})"),
              "ST": Pattern("{1:postfix}.clamp(max={0})"), "TT": Pattern("torch.minimum({0}, {1})")},
             numpy_function("minimum"), ieee.minimum, Pattern("{0:postfix}.clamp_(max={1})"),
             interval=intervals.minimum, careful="minimum", is_plain=has_no_nan),
    Operator("max", Across.ELEMENTWISE, "the larger of two", TWO, elementwise_shape,
             {"SS": Pattern("max({0}, {1})"), "TS": Pattern("{0:postfix}.clamp(min={1})"),
              "ST": Pattern("{1:postfix}.clamp(min={0})"), "TT": Pattern("torch.maximum({0}, {1})")},
             numpy_function("maximum"), ieee.maximum, Pattern("{0:postfix}.clamp_(min={1})"),
             interval=intervals.maximum, careful="maximum", is_plain=has_no_nan),
    Operator("clamp", Across.ELEMENTWISE, "x limited to lo .. hi (hi wins where lo > hi)",
             (*VALUE, Formal("lo", Want.VALUE), Formal("hi", Want.VALUE)), elementwise_shape,
             {"SSS": Pattern("min(max({0}, {1}), {2})"), "TSS": Pattern("{0:postfix}.clamp({1}, {2})"),
              "TTT": Pattern("{0:postfix}.clamp({1}, {2})"),
              "TST": Pattern("{0:postfix}.clamp(min={1}).clamp(max={2})"),
              "TTS": Pattern("{0:postfix}.clamp(min={1}).clamp(max={2})"),
              "SST": Pattern("{2:postfix}.clamp(max=ieee.maximum({0}, {1}))"),
              "STS": Pattern("{1:postfix}.clamp(min={0}).clamp(max={2})"),
              "STT": Pattern("{1:postfix}.clamp(min={0}).clamp(max={2})")},
             lambda x, lo, hi: lazy_numpy().minimum(lazy_numpy().maximum(x, lo), hi), ieee.clamp,
             interval=intervals.clamp, careful="clamp", is_plain=has_no_nan),
    comparison("lt", "<", "less", lambda x, y: x < y),
    comparison("le", "<=", "less_equal", lambda x, y: x <= y),
    comparison("gt", ">", "greater", lambda x, y: x > y),
    comparison("ge", ">=", "greater_equal", lambda x, y: x >= y),
    comparison("eq", "==", "equal", lambda x, y: x == y),
    comparison("ne", "!=", "not_equal", lambda x, y: x != y),
    Operator("and", Across.ELEMENTWISE, "both", (Formal("x", Want.BOOLEAN), Formal("y", Want.BOOLEAN)),
             elementwise_shape, {"SS": Pattern("{0:and} and {1:not}", Level.AND),
                                 "*": Pattern("{0:bit_and} & {1:sum}", Level.BIT_AND)},
             numpy_function("logical_and"), lambda x, y: x and y, symbol="and", boolean=True),
    Operator("or", Across.ELEMENTWISE, "either", (Formal("x", Want.BOOLEAN), Formal("y", Want.BOOLEAN)),
             elementwise_shape, {"SS": Pattern("{0:or} or {1:and}", Level.OR),
                                 "*": Pattern("{0:bit_or} | {1:bit_and}", Level.BIT_OR)},
             numpy_function("logical_or"), lambda x, y: x or y, symbol="or", boolean=True),
    Operator("not", Across.ELEMENTWISE, "the opposite", (Formal("x", Want.BOOLEAN),), elementwise_shape,
             {"S": Pattern("not {0:not}", Level.NOT), "T": Pattern("~{0:unary}", Level.UNARY)},
             numpy_function("logical_not"), lambda x: not x, symbol="not", boolean=True),
    reduction("sum", Across.SUM, "sum over the whole parameter, or per row or col",
              lambda np, x, axis: x.sum(axis, keepdims=True)),
    reduction("mean", Across.MEAN, "mean", lambda np, x, axis: x.mean(axis, keepdims=True)),
    replace(
        reduction("norm", Across.NORM, "Euclidean (Frobenius) norm",
                  lambda np, x, axis: np.sqrt((x * x).sum(axis, keepdims=True))),
        torch={"S": Pattern("abs({0})"), "T": Pattern("norm({0}, dim={1})")}, imports=("norm",),
        scalar=lambda x, axis: abs(x), interval=lambda x, axis: intervals.absolute(x)),
    Operator("dot", Across.SUM, "inner product", (*TWO, PER), reduce_shape,
             {"SS": Pattern("{0:product} * {1:unary}", Level.PRODUCT),
              "*": Pattern("({0:product} * {1:unary}).sum(dim={2}, keepdim=True)")},
             reduced(lambda np, x, y, axis: (x * y).sum(axis, keepdims=True)), lambda x, y, axis: x * y,
             commutative=True, cost=once_per_argument, interval=lambda x, y, axis: intervals.multiply(x, y)),
    replace(
        reduction("amax", Across.MAX, "largest element", lambda np, x, axis: x.max(axis, keepdims=True)),
        called="max"),
    replace(
        reduction("amin", Across.MIN, "smallest element", lambda np, x, axis: x.min(axis, keepdims=True)),
        called="min"),
    Operator("rank", Across.ORDER, "how many elements are smaller, or equal and before it", (*VALUE, PER),
             rank_shape, {"S": Pattern("0.0"), "T": Pattern("ranks({0}, dim={1})")}, reference_rank,
             lambda x, axis: 0.0, imports=("ranks",), cost=sorting_cost, interval=lambda x, axis: intervals.ZERO),
    Operator("quantile", Across.ORDER, "what a share q of all lies below, between two elements in proportion",
             (*VALUE, Formal("q", Want.NUMBER), PER), reduce_shape,
             {"S": Pattern("{0}"), "T": Pattern("quantiles({0}, {1}, dim={2})")}, reference_quantile,
             lambda x, q, axis: x, imports=("quantiles",), cost=sorting_cost, interval=lambda x, q, axis: x),
    Operator("median", Across.ORDER, "the element in the middle, or the mean of both", (*VALUE, PER), reduce_shape,
             {"S": Pattern("{0}"), "T": Pattern("quantiles({0}, 0.5, dim={1})")},
             lambda x, axis: reference_quantile(x, 0.5, axis), lambda x, axis: x, imports=("quantiles",),
             cost=sorting_cost, interval=lambda x, axis: x),
    Operator("matmul", Across.PRODUCT, "matrix product", (Formal("x", Want.MATRIX), Formal("y", Want.MATRIX)),
             product_shape, one("{0:product} @ {1:unary}", Level.PRODUCT), lambda x, y: x @ y,
             symbol="@", cost=product_cost),
    Operator("transpose", Across.TRANSPOSE, "transpose", (Formal("x", Want.MATRIX),), swap_shape,
             one("{0:postfix}.mT"), lambda x: x.T, symbol="'", cost=no_cost),
    Operator("leading", Across.WHOLE, "the first columns of x, as many as the dimension r of the rule says",
             (Formal("x", Want.MATRIX), Formal("r", Want.RANK)), leading_shape,
             one("{0:postfix}[..., :{1}]"), lambda x, r: x[:, : int(r)], cost=no_cost),
    matrix("trace", "sum of the diagonal", (GRAM,), scalar_shape, lambda s: s.trace().reshape(1, 1), diagonal_cost),
    matrix("det", "determinant", (GRAM,), scalar_shape, lambda s: lazy_numpy().linalg.det(s).reshape(1, 1),
           cubic_cost(2 / 3)),
    matrix("logdet", "logarithm of the determinant's absolute value", (GRAM,), scalar_shape,
           lambda s: lazy_numpy().linalg.slogdet(s)[1].reshape(1, 1), cubic_cost(2 / 3)),
    matrix("orthogonalize", "the nearest matrix with orthonormal rows or columns, as the method approximates it",
           (Formal("x", Want.MATRIX), Formal("steps", Want.NUMBER, "5"),
            Formal("method", Want.TEXT, '"newton_schulz"', METHODS), Formal("coefficients", Want.TRIPLES, "()"),
            Formal("eps", Want.NUMBER, "0", keyword_only=True, is_later=True),
            Formal("scale", Want.TEXT, '"frobenius"', SCALES, keyword_only=True, is_later=True)),
           same_shape, reference_orthogonalize, orthogonalization_cost),
    matrix("inverse_root", "(s + eps I)^(-1/p) of a symmetric positive semidefinite s",
           (GRAM, Formal("p", Want.NUMBER), Formal("eps", Want.NUMBER, "1e-12")), square_shape,
           reference_inverse_root, cubic_cost(11)),
    matrix("mpower", "(s + ridge I)^a of a symmetric positive semidefinite s",
           (GRAM, Formal("ridge", Want.SCALAR, "0", keyword_only=True), Formal("a", Want.NUMBER)), square_shape,
           reference_mpower, cubic_cost(11)),
    matrix("eigenvalues", "those of a symmetric s, ascending, one for each column of its eigenbasis", (GRAM,),
           spectrum_shape, reference_eigenvalues, cubic_cost(9)),
    matrix("eigenbasis", "eigenvectors of a symmetric s as columns, eigenvalues ascending", (GRAM,), square_shape,
           reference_eigenbasis, cubic_cost(9)),
    matrix("qr", "the orthonormal factor of x = q r, with the diagonal of r positive", (BASIS,), basis_shape,
           reference_qr, cubic_cost(8 / 3)),
    matrix("solve", "the x for which s x = b", (GRAM, Formal("b", Want.MATRIX)), solution_shape, reference_solve,
           solution_cost),
    matrix("cholesky", "the lower triangular l for which s = l l', of a symmetric positive definite s", (GRAM,),
           square_shape, reference_cholesky, cubic_cost(1 / 3)),
    Operator("index", Across.WHOLE, "the number of each row, or col, of a matrix from 0 on",
             (Formal("of", Want.MATRIX, "weight", keyword_only=True), Formal("per", Want.AXIS)), reduce_shape, {},
             reference_index, is_stream=True, cost=no_cost),
    stream("uniform", "random numbers between 0 and 1, one for each element of `of`"),
    stream("normal", "random numbers with the standard normal distribution, one for each element of `of`"),
    stream("sign_noise", "1 or -1 at random, for each element of `of`"),
    Operator("total", Across.TOTAL, "sum of a scalar over every parameter that has a gradient, or those of the rule",
             (Formal("x", Want.SCALAR), Formal("over", Want.RULE, EVERYTHING, keyword_only=True)), scalar_shape, {},
             lambda x, over: x, is_stream=True),
    # Written by passes only
    Operator("square", Across.ELEMENTWISE, "x^2", VALUE, elementwise_shape,
             {"S": Pattern("{0:product} * {0:unary}", Level.PRODUCT), "T": Pattern("{0:postfix}.square()")},
             ieee.square, ieee.square, Pattern("{0:postfix}.square_()"), internal=True,
             interval=intervals.square),
    Operator("place", Across.WHOLE, "the number of each of the parameter's rows, or cols", (Formal("per", Want.AXIS),),
             place_shape, one("index({like}, dim={0})"), reference_place, imports=("index",), is_stream=True,
             cost=no_cost, internal=True),
    draw("uniform", "the odd multiples of 2^-24 below 1, as the noise says", reference_uniform),
    draw("normal", "multiples of 2^-20 with the normal distribution, as the noise says", reference_normal),
    draw("sign_noise", "1 or -1, as the noise says", reference_sign_noise),
    Operator("corner", Across.ORDER, "the first element, of each row or col or of all", (*VALUE, PER), reduce_shape,
             {"S": Pattern("{0}"), "T": Pattern("corner({0}, dim={1})")}, reference_corner, lambda x, axis: x,
             imports=("corner",), cost=no_cost, internal=True),
    Operator("lerp", Across.ELEMENTWISE, "x + w * (y - x)", (*TWO, Formal("w", Want.VALUE)), elementwise_shape,
             one("{0:postfix}.lerp({1}, {2})"), lambda x, y, w: x + w * (y - x), lambda x, y, w: x + w * (y - x),
             Pattern("{0:postfix}.lerp_({1}, {2})"), internal=True),
    Operator("accumulate", Across.ELEMENTWISE, "w * x + y", (*TWO, Formal("w", Want.VALUE)), elementwise_shape,
             one("{2:product} * {0:unary} + {1:product}", Level.SUM), lambda x, y, w: w * x + y,
             lambda x, y, w: w * x + y, Pattern("{0:postfix}.mul_({2}).add_({1})"), internal=True, writes_early=True),
    Operator("fill", Across.ELEMENTWISE, "x as a tensor of the shape that is asked for", VALUE, elementwise_shape,
             {}, lambda x: x, internal=True),
)  # fmt: skip

# What the owner of whole matrices makes of values that are sent to it: written by the lowering of steps on shards.
WHOLE_CALL = Operator("whole", Across.WHOLE, "a function of whole matrices", VALUE, same_shape, {}, lambda *x: x[0],
                      internal=True, cost=no_cost)  # fmt: skip


def careful_row(row: Operator) -> Operator:
    """The operator on scalars as the runtime's function has it."""
    holes = ", ".join(f"{{{index}}}" for index in range(len(row.parameters)))
    pattern = Pattern(f"ieee.{row.careful}({holes})")
    return replace(
        row, name=f"ieee_{row.name}", torch={"S" * len(row.parameters): pattern}, in_place=None, symbol="",
        internal=True, imports=("ieee",), careful="",
    )  # fmt: skip


CAREFUL: Mapping[str, Operator] = {row.name: careful_row(row) for row in ROWS if row.careful}
OPERATORS: Mapping[str, Operator] = {row.name: row for row in (*ROWS, *CAREFUL.values(), WHOLE_CALL)}


def forms_by_name() -> dict[str, tuple[Operator, ...]]:
    found: dict[str, tuple[Operator, ...]] = {}
    for row in ROWS:
        if not row.symbol and not row.internal:
            found[row.word] = (*found.get(row.word, ()), row)
    return found


STREAMS = ("uniform", "normal", "sign_noise")

# Operators a spec calls by name, each name with its forms, and those it writes as symbols.
CALLABLE: Mapping[str, tuple[Operator, ...]] = forms_by_name()
BINARY: Mapping[str, str] = {row.symbol: row.name for row in ROWS if row.symbol and len(row.parameters) == 2}
UNARY: Mapping[str, str] = {row.symbol: row.name for row in ROWS if row.symbol and len(row.parameters) == 1}
