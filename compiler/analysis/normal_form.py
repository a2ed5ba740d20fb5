"""Normal forms: expressions of the IR as sums of products, equal where arithmetic alone makes two expressions equal.

A :class:`Sum` has exact coefficients; its factors are :class:`Atom`, values that arithmetic does not look into: inputs,
divisors, functions such as ``sqrt``. Products are multiplied out and nothing is cancelled, so two expressions of one
form are equal for all finite values of the atoms (a quotient ``x / x`` stays one). It decides nothing about what is
positive: ``sqrt(a * b)`` is not ``sqrt(a) * sqrt(b)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias, assert_never

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName

ARITHMETIC = {"add", "sub", "mul", "div", "neg", "fill", "square", "lerp", "accumulate", "pow"}
INVERSE = "1 / "
TERM_LIMIT, DEGREE_LIMIT, KEY_LIMIT, POWER_LIMIT = 64, 16, 4000, 4


class TooLarge(Exception):
    """A form that would have more terms than anything it is compared with."""


class Vanishes(TooLarge):
    """A sum in which a tensor cancels, which only a finite one does."""


@dataclass(frozen=True, slots=True)
class Atom:
    """``key`` says which value it is, ``outline`` the same but for the scalars in it ("" for a scalar).

    ``parts`` are the arguments of a function, which is ``operator``, or the divisor of an inverse.
    """

    key: str
    outline: str = field(compare=False)
    parts: tuple[Sum, ...] = field(compare=False, default=(), repr=False)
    operator: str = field(compare=False, default="", repr=False)

    @property
    def is_scalar(self) -> bool:
        return not self.outline

    @property
    def is_inverse(self) -> bool:
        return self.operator == INVERSE


Product: TypeAlias = tuple[Atom, ...]  # sorted by their keys, repeated for powers


@dataclass(frozen=True, slots=True)
class Sum:
    """Products with their coefficients, none of them 0, in graded order."""

    terms: tuple[tuple[Product, Fraction], ...] = ()

    def __add__(self, other: Sum) -> Sum:
        return collect_terms((*self.terms, *other.terms))

    def __sub__(self, other: Sum) -> Sum:
        return self + other * constant(-1)

    def __mul__(self, other: Sum) -> Sum:
        if len(self.terms) * len(other.terms) > TERM_LIMIT:
            raise TooLarge
        if ONE in (self, other):
            return self if other == ONE else other
        return collect_terms([(join_products(a, b), x * y) for a, x in self.terms for b, y in other.terms])

    @property
    def is_scalar(self) -> bool:
        return all(atom.is_scalar for product, _ in self.terms for atom in product)

    @property
    def outline(self) -> str:
        """A text that is equal for sums of the same tensors, whatever their coefficients."""
        return " + ".join(sorted({outline_of(product) for product, _ in self.terms}))

    @property
    def key(self) -> str:
        """A text that is equal for equal sums only."""
        text = " + ".join("*".join([str(factor), *(atom.key for atom in product)]) for product, factor in self.terms)
        if len(text) > KEY_LIMIT:
            raise TooLarge
        return f"({text})"

    def number(self) -> Fraction | None:
        """The value of a sum without atoms."""
        if not self.terms:
            return Fraction(0)
        (product, factor), *more = self.terms
        return None if product or more else factor


ONE = Sum((((), Fraction(1)),))


def constant(value: Fraction | int) -> Sum:
    return collect_terms([((), Fraction(value))])


def single(atom: Atom) -> Sum:
    return Sum((((atom,), Fraction(1)),))


def outline_of(product: Product) -> str:
    return "*".join(sorted(atom.outline for atom in product if atom.outline))


def join_products(one: Product, two: Product) -> Product:
    if len(one) + len(two) > DEGREE_LIMIT:
        raise TooLarge
    return tuple(sorted((*one, *two), key=lambda atom: atom.key))


def order(product: Product) -> tuple[int, list[str]]:
    """By degree, then by the atoms; products keep this order when both are multiplied by a third."""
    return len(product), [atom.key for atom in product]


def collect_terms(terms: Iterable[tuple[Product, Fraction]]) -> Sum:
    """The sum of terms, equal products together."""
    found: dict[Product, Fraction] = {}
    for product, factor in terms:
        found[product] = found.get(product, Fraction(0)) + factor
    kept = [(product, factor) for product, factor in found.items() if factor]
    return Sum(tuple(sorted(kept, key=lambda term: order(term[0]))))


def inverse(divisor: Sum) -> Sum:
    """1 / divisor: of a single term factor by factor, of a sum as one atom whose last coefficient is 1."""
    if not divisor.terms:
        raise TooLarge  # a division by 0 has no form
    product, factor = divisor.terms[-1]
    if len(divisor.terms) == 1:
        parts = [single(atom_of(INVERSE, (single(atom),))) for atom in product]
    else:
        parts = [single(atom_of(INVERSE, (divisor * constant(1 / factor),)))]
    result = constant(1 / factor)
    for part in parts:
        result *= part
    return result


def quotient(dividend: Sum, divisor: Sum) -> Sum | None:
    """The sum that times ``divisor`` is ``dividend``, or None where there is none; by long division."""
    if not divisor.terms:
        return None
    lead, factor = divisor.terms[-1]
    result, rest = Sum(), dividend
    for _ in range(TERM_LIMIT):
        if not rest.terms:
            return result
        product, share = rest.terms[-1]
        left = take_out(product, lead)
        if left is None:
            return None
        step = Sum(((left, share / factor),))
        result, rest = result + step, rest - step * divisor
    return None


def take_out(product: Product, factors: Product) -> Product | None:
    """The product divided by factors that it contains."""
    left = list(product)
    for atom in factors:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


@dataclass
class Former:
    """Gives expressions of one function their normal form.

    ``states`` gives the names that states go by; ``kept`` are equations that stand for themselves under a name;
    ``chosen`` says which branch of each choice on a scalar condition is taken; ``known`` are the values of hypers.
    """

    function: ir.Function
    states: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[EquationName, str] = field(default_factory=dict)
    chosen: Mapping[ir.Expr, bool] = field(default_factory=dict)
    known: Mapping[str, Sum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {equation.name: equation.value for equation in self.function.equations}
        self.forms: dict[EquationName, Sum] = {}

    def form(self, expr: ir.Expr) -> Sum:
        """The normal form; raises :class:`TooLarge`."""
        match expr:
            case ir.Literal():
                return literal_form(expr)
            case ir.Input(name=name, source=source):
                if source is ir.InputSource.HYPER and name in self.known:
                    return self.known[name]
                shown = self.states.get(name, name) if source is ir.InputSource.STATE else name
                return single(name_atom(f"{source.value} {shown}", expr.type.is_scalar_phase))
            case ir.Ref(name=name):
                if name in self.kept:
                    return single(name_atom(f"new {self.kept[name]}", False))
                return self.defined(name)
            case ir.Select() if expr.condition in self.chosen:
                return self.form(expr.then if self.chosen[expr.condition] else expr.otherwise)
            case ir.Select():
                return self.opaque("select", expr)
            case ir.Apply():
                return self.applied(expr)
            case ir.Prev() | ir.Latest():
                raise AssertionError(f"{type(expr).__name__} is gone after the stream check")
            case _:
                assert_never(expr)

    def defined(self, name: EquationName) -> Sum:
        """The form of an equation's own value."""
        if name not in self.forms:
            self.forms[name] = self.form(self.values[name])
        return self.forms[name]

    def applied(self, node: ir.Apply) -> Sum:
        match node.operator, node.arguments:
            case "add", (x, y):
                return self.added(self.form(x), self.form(y))
            case "sub", (x, y):
                return self.added(self.form(x), self.form(y) * constant(-1))
            case "mul", (x, y):
                return self.form(x) * self.form(y)
            case "div", (x, y):
                return self.form(x) * inverse(self.form(y))
            case "neg", (x,):
                return self.form(x) * constant(-1)
            case "fill", (x,):
                return self.form(x)
            case "square", (x,):
                return self.form(x) * self.form(x)
            case "lerp", (x, y, w):
                share = self.form(w)
                return self.added((ONE - share) * self.form(x), share * self.form(y))
            case "accumulate", (x, y, w):
                return self.added(self.form(w) * self.form(x), self.form(y))
            case "pow", (x, y):
                return self.power(node, self.form(x), self.form(y).number())
            case _:
                return self.opaque(node.operator, node)

    def added(self, x: Sum, y: Sum) -> Sum:
        return x + y

    def power(self, node: ir.Apply, base: Sum, exponent: Fraction | None) -> Sum:
        """Small whole powers multiplied out; a power of one half is a root."""
        if exponent == Fraction(1, 2):
            return single(atom_of("sqrt", (base,)))
        if exponent is None or exponent.denominator != 1 or abs(exponent) > POWER_LIMIT:
            return self.opaque("pow", node)
        result = constant(1)
        for _ in range(abs(int(exponent))):
            result *= base
        return result if exponent >= 0 else inverse(result)

    def opaque(self, operator: str, node: ir.Expr) -> Sum:
        """A function that arithmetic knows nothing about: equal where its arguments are."""
        return single(atom_of(operator, tuple(self.form(child) for child in ir.children(node))))


class ExactFormer(Former):
    """Gives normal forms to expressions in which no tensor cancels: equal ones are equal for infinities as well."""

    def added(self, x: Sum, y: Sum) -> Sum:
        """The sum; raises :class:`Vanishes`."""
        found = x + y
        if not (tensors_in(x) | tensors_in(y)) <= tensors_in(found):
            raise Vanishes
        return found


def tensors_in(form: Sum) -> set[Product]:
    """The products of a sum that have a tensor in them."""
    return {product for product, _ in form.terms if not all(atom.is_scalar for atom in product)}


def name_atom(key: str, is_scalar: bool) -> Atom:
    return Atom(key, "" if is_scalar else key)


def atom_of(operator: str, parts: tuple[Sum, ...]) -> Atom:
    """A function of sums."""
    is_scalar = all(part.is_scalar for part in parts)
    outline = "" if is_scalar else f"{operator}[{', '.join(part.outline for part in parts)}]"
    return Atom(f"{operator}[{', '.join(part.key for part in parts)}]", outline, parts, operator)


def literal_form(node: ir.Literal) -> Sum:
    """Numbers as they are spelled in decimal; everything else is an atom."""
    if isinstance(node.value, float) and node.value - node.value == 0:
        try:
            return constant(Fraction(node.spelling))
        except ValueError:  # `pi`
            pass
    return single(name_atom(f"literal {node.spelling}", True))
