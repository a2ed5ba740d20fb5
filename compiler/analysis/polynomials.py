"""Polynomials in rows, cols, min(rows, cols) and a rule's own dimension: how memory and arithmetic grow with a shape.

Coefficients are fractions, exponents too, so that equality is exact. Expressions of the IR become polynomials where
they are; hyperparameters, comparisons and other functions make none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import MIN, Size
from optforge.compiler.ir.types import Dim, Shape

Exponents: TypeAlias = tuple[Fraction, Fraction, Fraction, Fraction]  # of rows, cols, min(rows, cols) and the rank

ZERO, ONE = Fraction(0), Fraction(1)
CONSTANT: Exponents = (ZERO, ZERO, ZERO, ZERO)
UNITS: dict[Size, Exponents] = {
    Dim.ONE: CONSTANT,
    Dim.ROWS: (ONE, ZERO, ZERO, ZERO),
    Dim.COLS: (ZERO, ONE, ZERO, ZERO),
    MIN: (ZERO, ZERO, ONE, ZERO),
    Dim.RANK: (ZERO, ZERO, ZERO, ONE),
}
NAMES = ("rows", "cols", "min(rows, cols)", "rank")


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Coefficients by exponents; no coefficient is 0."""

    terms: Mapping[Exponents, Fraction] = field(default_factory=dict)

    def __add__(self, other: Polynomial) -> Polynomial:
        return collect_terms([*self.terms.items(), *other.terms.items()])

    def __mul__(self, other: Polynomial) -> Polynomial:
        pairs = [(a, b) for a in self.terms.items() for b in other.terms.items()]
        return collect_terms([(product(one, two), x * y) for (one, x), (two, y) in pairs])

    def value(self, rows: float, cols: float, rank: float = 1) -> float:
        """The polynomial at a shape."""
        bases = (rows, cols, min(rows, cols), rank)
        total = 0.0
        for exponents, factor in self.terms.items():
            term = float(factor)
            for base, exponent in zip(bases, exponents, strict=True):
                term *= float(base) ** float(exponent)
            total += term
        return total

    def __str__(self) -> str:
        ordered = sorted(self.terms.items(), key=lambda item: (-sum(item[0]), tuple(-e for e in item[0])))
        return " + ".join(term_text(exponents, factor) for exponents, factor in ordered) or "0"


def collect_terms(terms: Iterable[tuple[Exponents, Fraction]]) -> Polynomial:
    """The sum of terms, equal powers together."""
    found: dict[Exponents, Fraction] = {}
    for exponents, factor in terms:
        found[exponents] = found.get(exponents, ZERO) + factor
    return Polynomial({exponents: factor for exponents, factor in found.items() if factor})


def product(one: Exponents, two: Exponents) -> Exponents:
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]


def power_text(base: str, exponent: Fraction) -> str:
    """A power as specs write it: ``^`` binds more tightly than the division in a fraction."""
    plain = exponent.denominator == 1 and exponent >= 0
    return f"{base}^{exponent}" if plain else f"{base}^({exponent})"


def term_text(exponents: Exponents, factor: Fraction) -> str:
    parts = [
        name if exponent == 1 else power_text(name, exponent)
        for name, exponent in zip(NAMES, exponents, strict=True)
        if exponent
    ]
    shown = [f"{float(factor):g}"] if factor != 1 or not parts else []
    return " * ".join([*shown, *parts])


def monomial(sizes: Iterable[Size], factor: float = 1) -> Polynomial:
    """``factor`` times the product of sizes."""
    exponents = CONSTANT
    for size in sizes:
        exponents = product(exponents, UNITS[size])
    return collect_terms([(exponents, Fraction(factor))])


def size_of(shape: Shape) -> Polynomial:
    return monomial(shape)


def polynomial_of(expr: ir.Expr) -> Polynomial | None:
    """The polynomial in rows and cols that an expression is; None where it is none."""
    match expr:
        case ir.Literal(value=float() as value) if value - value == 0:
            return collect_terms([(CONSTANT, Fraction(value))])
        case ir.Input(name="rows"):
            return monomial([Dim.ROWS])
        case ir.Input(name="cols"):
            return monomial([Dim.COLS])
        case ir.Input(name=name, source=ir.InputSource.DIMENSION) if name not in ("outputs", "inputs"):
            return monomial([Dim.RANK])
        case ir.Apply(operator="pow", arguments=(base, ir.Literal(value=float() as power))):
            return raise_to(polynomial_of(base), power)
        case ir.Apply(operator=("add" | "sub" | "mul" | "neg" | "div" | "min" | "max") as name, arguments=arguments):
            parts = [polynomial_of(argument) for argument in arguments]
            known = [part for part in parts if part is not None]
            return combine(name, known) if len(known) == len(parts) else None
        case _:
            return None


def combine(operator: str, parts: list[Polynomial]) -> Polynomial | None:
    """An operator on polynomials, where the result is one; a divisor must be a single term."""
    minus = collect_terms([(CONSTANT, -ONE)])
    match operator, parts:
        case "add", [x, y]:
            return x + y
        case "sub", [x, y]:
            return x + minus * y
        case "mul", [x, y]:
            return x * y
        case "neg", [x]:
            return minus * x
        case "div", [x, y] if len(y.terms) == 1:
            ((exponents, factor),) = y.terms.items()
            return x * collect_terms([((-exponents[0], -exponents[1], -exponents[2], -exponents[3]), 1 / factor)])
        case "min", [x, y] if {str(x), str(y)} == {"rows", "cols"}:
            return monomial([MIN])
        case "max", [x, y] if {str(x), str(y)} == {"rows", "cols"}:
            return collect_terms([((ONE, ONE, -ONE, ZERO), ONE)])  # one of the two is the smaller, the other this
        case _:
            return None


def raise_to(base: Polynomial | None, power: float) -> Polynomial | None:
    """A whole power of a polynomial, or any power of a single term with factor 1."""
    if base is None:
        return None
    if power.is_integer() and 0 <= power <= 8:
        result = collect_terms([(CONSTANT, ONE)])
        for _ in range(int(power)):
            result *= base
        return result
    if len(base.terms) == 1 and abs(power) <= 8:
        ((exponents, factor),) = base.terms.items()
        scale = Fraction(power).limit_denominator(64)
        if factor == 1 and float(scale) == power:
            a, b, c, d = exponents
            return collect_terms([((a * scale, b * scale, c * scale, d * scale), ONE)])
    return None
