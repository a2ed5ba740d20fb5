"""Kernels as graphs: a kernel's tensor operations recorded once, its numbers kept outside as expressions of the step.

A kernel computes with tensors, and with numbers that follow from hypers and the step count (`1 - beta**t`). Inside a
compiled graph such a number would be a constant, so that each step is compiled anew, or be evaluated for every element.
Here it becomes an element of one vector that the graph reads; plain Python evaluates the vector before each call. What
Python decides by a number (`if t == 1`) is a guard: a graph holds where all its guards come out as they were recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..linalg.ieee import ieee
from ..linalg.numbers import power

NUMBERS_LIMIT = 64  # elements of the vector of numbers in most graphs; unused ones cost nothing


class TooManyNumbers(RuntimeError):
    """A kernel with more numbers than the vector has elements."""


class Recorder:
    """What a trace has met so far: expressions of numbers by their place in the vector, and guards in their order.

    The last element of the vector is no expression's: it is 1 in every step.
    """

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self.places: dict[str, int] = {}
        self.guards: dict[str, object] = {}

    def element(self, text: str) -> Tensor:
        """The 0-d tensor that holds the value of an expression."""
        place = self.places.setdefault(text, len(self.places))
        if place >= len(self.vector) - 1:
            raise TooManyNumbers(f"a kernel with more than {len(self.vector) - 1} numbers")
        return self.vector[place]

    def decide(self, text: str, outcome: Any) -> Any:
        self.guards.setdefault(text, outcome)
        return outcome


class Number:
    """A Python number that remembers the expression it is the value of; a tensor's operation sees a 0-d tensor."""

    def __init__(self, recorder: Recorder, value: Any, text: str) -> None:
        self.recorder, self.value, self.text = recorder, value, text

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.full_like:
            return torch.zeros_like(args[0]) + _as_tensor(args[1])
        if function is Tensor.new_full:
            return args[0].new_zeros(args[1]) + _as_tensor(args[2])
        return function(*tree_map(_as_tensor, args), **tree_map(_as_tensor, kwargs or {}))

    def tensor(self) -> Tensor:
        return self.recorder.element(self.text)

    def __bool__(self) -> bool:
        return bool(self.recorder.decide(f"({self.text} != 0)", bool(self.value)))

    def __int__(self) -> int:
        return int(self.recorder.decide(self.text, self.value))

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.recorder.decide(self.text, self.value))

    def __neg__(self) -> Number:
        return Number(self.recorder, -self.value, f"(-{self.text})")

    def __abs__(self) -> Number:
        return Number(self.recorder, abs(self.value), f"abs({self.text})")

    __hash__ = None  # type: ignore[assignment]


def _as_tensor(x: Any) -> Any:
    return x.tensor() if isinstance(x, Number) else x


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Number) else x


def _text(x: Any) -> str:
    """The value as Python writes it, in a form that stands for it wherever in an expression it comes."""
    if isinstance(x, Number):
        return x.text
    if isinstance(x, float) and not math.isfinite(x):
        return _NOT_A_NUMBER if math.isnan(x) else _INFINITY if x > 0 else f"(-{_INFINITY})"
    text = repr(x)
    return f"({text})" if text.startswith("-") else text  # -2 ** t would be -(2 ** t)


def _join(function: Callable[..., Any], text: str, *operands: Any) -> Number:
    """The number that a function of Python numbers gives, of which at least one is a `Number`."""
    recorder = next(x.recorder for x in operands if isinstance(x, Number))
    return Number(recorder, function(*map(_value, operands)), text)


def _add_arithmetic(symbol: str, name: str) -> None:
    """Gives `Number` the methods `__name__` and `__rname__`; beside a tensor the tensor's own operation decides."""
    plain = eval(f"lambda a, b: a {symbol} b")

    def forward(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return plain(self.tensor(), other)
        return _join(plain, f"({self.text} {symbol} {_text(other)})", self, other)

    def backward(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return plain(other, self.tensor())
        return _join(plain, f"({_text(other)} {symbol} {self.text})", other, self)

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", backward)


def _add_comparison(symbol: str, name: str) -> None:
    plain = eval(f"lambda a, b: a {symbol} b")

    def compare(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return plain(self.tensor(), other)
        return self.recorder.decide(f"({self.text} {symbol} {_text(other)})", plain(self.value, _value(other)))

    setattr(Number, f"__{name}__", compare)


for _symbol, _name in {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "**": "pow",
    "//": "floordiv",
    "%": "mod",
}.items():
    _add_arithmetic(_symbol, _name)
for _symbol, _name in {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}.items():
    _add_comparison(_symbol, _name)


class _NumberMath:
    """The functions of `math` or `ieee` for kernels whose numbers are recorded."""

    def __init__(self, functions: Any, name: str) -> None:
        self._functions, self._name = functions, name

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._functions, name)
        return _for_numbers(plain, f"{self._name}.{name}") if callable(plain) else plain


def _for_numbers(plain: Callable[..., Any], name: str) -> Callable[..., Any]:
    def function(*operands: Any) -> Any:
        if not any(isinstance(x, Number) for x in operands):
            return plain(*operands)
        if any(isinstance(x, Tensor) for x in operands):
            return plain(*map(_as_tensor, operands))
        return _join(plain, f"{name}({', '.join(map(_text, operands))})", *operands)

    return function


_NAMES: dict[str, Any] = {
    "math": _NumberMath(math, "math"),
    "ieee": _NumberMath(ieee, "ieee"),
    "min": _for_numbers(min, "min"),
    "max": _for_numbers(max, "max"),
    "power": _for_numbers(power, "power"),
}


def _with_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, for which `math`, `ieee`, `min`, `max` and `power` take instances of `Number` as well.

    They do for the functions of its module that it calls, or names to owners of whole matrices.
    """
    assert isinstance(function, FunctionType)
    known = {**function.__globals__, **_NAMES}
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if isinstance(called, FunctionType) and called.__globals__ is function.__globals__:
            known[name] = _in_scope(called, known)
    return _in_scope(function, known)


def _in_scope(function: FunctionType, known: dict[str, Any]) -> FunctionType:
    """The same function, for which names mean what is `known`."""
    found = FunctionType(function.__code__, known, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


class _TensorMath:
    """The module `math` for expressions whose numbers may be on the device."""

    def __getattr__(self, name: str) -> Any:
        plain = getattr(math, name)
        return _for_tensors(plain, getattr(torch, name, None)) if callable(plain) else plain


def _for_tensors(plain: Callable[..., Any], wide: Callable[..., Any] | None) -> Callable[..., Any]:
    def function(*operands: Any) -> Any:
        device = next((x.device for x in operands if isinstance(x, Tensor)), None)
        if device is None or wide is None:
            return plain(*operands)
        return wide(*(torch.as_tensor(x, dtype=torch.float64, device=device) for x in operands))

    return function


def _is(found: Any, noted: float) -> bool:
    """Whether a number is the one that was noted, which the sign of a zero decides as well."""
    found = float(found)
    return (found == noted and math.copysign(1.0, found) == math.copysign(1.0, noted)) or (
        math.isnan(found) and math.isnan(noted)
    )


# No scalar of a kernel has a name with two leading underscores, or one of those that kernels call.
_IS, _INFINITY, _NOT_A_NUMBER = "__is", "__inf", "__nan"

_SCOPE: dict[str, Any] = {
    _IS: _is,
    _INFINITY: math.inf,
    _NOT_A_NUMBER: math.nan,
    "math": _TensorMath(),
    "ieee": ieee,
    "min": _for_tensors(min, torch.minimum),
    "max": _for_tensors(max, torch.maximum),
    "power": power,
}


def _evaluator(texts: Sequence[str], names: Sequence[str]) -> Callable[..., tuple[Any, ...]]:
    """A function of the named scalars that gives the value of each expression."""
    listed = "".join(f"{text}, " for text in texts)
    found: Callable[..., tuple[Any, ...]] = eval(f"lambda {', '.join(names)}: ({listed})", dict(_SCOPE))
    return found


def _condition(guards: Mapping[str, object], names: Sequence[str]) -> Callable[..., bool]:
    """A function of the named scalars: whether all guards come out as recorded, in their order."""
    conditions = " and ".join(_guard(text, outcome) for text, outcome in guards.items())
    found: Callable[..., bool] = eval(f"lambda {', '.join(names)}: {conditions or True}", dict(_SCOPE))
    return found


def _guard(text: str, outcome: Any) -> str:
    """The condition that an expression comes out as it did."""
    if isinstance(outcome, bool):
        return text if outcome else f"not {text}"
    return f"{_IS}({text}, {_text(outcome)})"
