"""Reads printed mathematics: what a formula comes to where every value is one number.

Written for the grammar that a reader has in mind, and not for the printer: a product binds what stands side by side, a
power the one thing before it, and what an environment or a pair of fences holds is whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from optforge.compiler.ir import ieee
from optforge.compiler.ir.builders import default_of
from optforge.compiler.ir.operators import OPERATORS
from optforge.dsl.source import NOWHERE

SPACE = re.compile(r"\s*")
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d*)?|\.\d+|\S")
FUNCTIONS: Mapping[str, Callable[..., float]] = {
    r"\exp": ieee.exp,
    r"\log": ieee.log,
    r"\tanh": math.tanh,
    r"\arctan": math.atan,
    r"\sin": ieee.sin,
    r"\cos": ieee.cos,
    r"\max": lambda *values: math.nan if any(map(math.isnan, values)) else max(values),
    r"\min": lambda *values: math.nan if any(map(math.isnan, values)) else min(values),
    "sign": ieee.sign,
    "clip": ieee.clamp,
    "round": ieee.round_to_even,
    "mean": lambda x: x,
    "sum": lambda x: x,
    "median": lambda x: x,
}
METHODS = {"NewtonSchulz": "newton_schulz", "PolarExpress": "polar_express", "Polar": "exact"}
SPACES = (r"\,", r"\cdot", r"\odot")
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda x, y: x < y,
    ">": lambda x, y: x > y,
    r"\le": lambda x, y: x <= y,
    r"\ge": lambda x, y: x >= y,
    "=": lambda x, y: x == y,
    r"\ne": lambda x, y: x != y,
}


class Unreadable(Exception):
    """Text that this reader has no meaning for."""


class Formulas:
    """Reads formulas in which the symbols have these values, by their texts."""

    def __init__(self, symbols: Mapping[str, float | bool | str]) -> None:
        self.symbols = sorted(symbols.items(), key=lambda item: -len(item[0]))
        self.text = ""
        self.at = 0

    def value(self, text: str) -> float | bool:
        self.text, self.at = text, 0
        found = self.disjunction()
        if self.peek():
            raise Unreadable(f"{self.text[self.at :]!r} at the end of {text}")
        return found

    # Tokens

    def peek(self) -> str:
        self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        found = TOKEN.match(self.text, self.at)
        return found[0] if found else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if wanted is not None and token != wanted:
            raise Unreadable(f"{token!r} in the place of {wanted!r} in {self.text}")
        self.at += len(token)
        return token

    def is_next(self, *tokens: str) -> bool:
        return self.peek() in tokens

    # From loose to tight

    def disjunction(self) -> float | bool:
        values = [self.conjunction()]
        while self.is_next(r"\lor"):
            self.take()
            values.append(self.conjunction())
        return values[0] if len(values) == 1 else any(values)

    def conjunction(self) -> float | bool:
        values = [self.negation()]
        while self.is_next(r"\land"):
            self.take()
            values.append(self.negation())
        return values[0] if len(values) == 1 else all(values)

    def negation(self) -> float | bool:
        if self.is_next(r"\lnot"):
            self.take()
            return not self.negation()
        return self.comparison()

    def comparison(self) -> float | bool:
        values, tests = [self.sum()], []
        while self.is_next(*COMPARISONS):
            sign = self.take()
            values.append(self.sum())
            tests.append(COMPARISONS[sign](values[-2], values[-1]))
        return all(tests) if tests else values[0]

    def sum(self) -> float:
        value = self.product()
        while self.is_next("+", "-"):
            sign = self.take()
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> float:
        if self.is_next("-"):
            self.take()
            return -self.product()
        value = self.power()
        while True:
            if self.is_next(*SPACES):
                self.take()
                value *= self.power()
            elif self.is_next("/"):
                self.take()
                value = ieee.divide(value, self.power())
            elif self.is_next(r"\bmod"):
                self.take()
                value = ieee.remainder(value, self.power())
            elif self.begins_factor():
                value *= self.power()
            else:
                return value

    def begins_factor(self) -> bool:
        closing = ("", "+", "-", "=", "<", ">", ")", "]", "}", ",", "&", r"\\", r"\right", r"\rVert", r"\rvert")
        closing += (r"\rangle", r"\rfloor", r"\le", r"\ge", r"\ne", r"\land", r"\lor", r"\text", r"\end")
        return self.peek() not in closing

    def power(self) -> float:
        value = self.primary()
        while self.is_next("^"):
            self.take()
            self.take("{")
            if self.is_next(r"\odot"):
                self.take()
            value = ieee.power(value, self.sum())
            self.take("}")
        return value

    def primary(self) -> float:
        self.peek()
        for text, value in self.symbols:
            if self.text.startswith(text, self.at):
                self.at += len(text)
                return value  # type: ignore[return-value]
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return float(token)
        if token in FUNCTIONS:
            return FUNCTIONS[token](*self.arguments())
        match token:
            case r"\infty":
                return math.inf
            case r"\pi":
                return math.pi
            case r"\frac":
                return ieee.divide(self.group(), self.group())
            case r"\sqrt":
                return ieee.sqrt(self.group())
            case r"\operatorname":
                return self.called(self.name())
            case r"\begin":
                return self.cases()
            case r"\sum":
                self.skip_index()
                return self.product()
            case r"\mathbf":
                return self.indicator()
            case r"\texttt":
                return self.name()  # type: ignore[return-value]
            case r"\left":
                return self.fenced(self.take())
        return self.fenced(token)

    def called(self, name: str) -> float:
        """A function of numbers; a matrix with one element is orthogonalized as any other."""
        start = self.at
        arguments = self.arguments()
        if name in FUNCTIONS:
            return FUNCTIONS[name](*arguments)
        index = re.match(r"_\{(.*?)\}(?=\(|\\left)", self.text[start:])
        steps = Formulas(dict(self.symbols)).value(index[1]) if index else 5
        method = METHODS[name] if index else "svd"
        operator = OPERATORS["orthogonalize"]
        usual = [default_of(parameter, NOWHERE).value for parameter in operator.parameters[3:]]  # type: ignore
        return float(operator.reference(np.array([[arguments[0]]]), steps, method, *usual)[0, 0])

    def fenced(self, opening: str) -> float:
        closing = {"(": ")", "[": "]", r"\lvert": r"\rvert", r"\lVert": r"\rVert", r"\lfloor": r"\rfloor"}
        if opening == r"\langle":
            first = self.sum()
            self.take(",")
            value = first * self.sum()
            self.close(r"\rangle")
        elif opening in closing:
            value = self.disjunction()
            self.close(closing[opening])
        else:
            raise Unreadable(f"{opening!r} in {self.text}")
        self.skip_index()
        if opening in (r"\lvert", r"\lVert"):
            return abs(value)
        return ieee.floor(value) if opening == r"\lfloor" else value

    def close(self, closing: str) -> None:
        if self.is_next(r"\right"):
            self.take()
        self.take(closing)

    def skip_index(self) -> None:
        if self.is_next("_"):
            self.take()
            depth = 0
            while True:
                token = self.take()
                depth += (token == "{") - (token == "}")
                if depth == 0:
                    return

    def name(self) -> str:
        self.take("{")
        end = self.text.index("}", self.at)
        found, self.at = self.text[self.at : end], end + 1
        if found not in (*FUNCTIONS, *METHODS) and self.text[: self.at].endswith(f"operatorname{{{found}}}"):
            raise Unreadable(found)
        return found.replace("\\_", "_")

    def group(self) -> float:
        self.take("{")
        value = self.disjunction()
        self.take("}")
        return value

    def arguments(self) -> list[float]:
        self.skip_index()
        if self.is_next(r"\left"):
            self.take()
        self.take("(")
        values = [self.sum()]
        while self.is_next(","):
            self.take()
            values.append(self.sum())
        self.close(")")
        return values

    def indicator(self) -> float:
        self.group()
        if self.is_next(r"\left"):
            self.take()
        self.take("[")
        value = self.disjunction()
        self.close("]")
        return 1.0 if value else 0.0

    def cases(self) -> float:
        self.name()
        chosen: float | None = None
        while True:
            value = self.disjunction()
            self.take("&")
            self.take(r"\text")
            holds = self.name() == "otherwise" or self.disjunction()
            chosen = value if chosen is None and holds else chosen
            if self.take() == r"\end":
                self.name()
                assert chosen is not None
                return chosen
