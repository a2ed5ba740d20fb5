"""How operators are printed: a row for each, complete over the operators of the table.

An elementwise function without a row is printed by its name, which is how a paper would have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Across
from optforge.compiler.targets.document import formulas
from optforge.compiler.targets.document.formulas import Formula, Mixing, Tightness, at_least, parenthesized
from optforge.compiler.targets.document.operations import (
    Operation,
    Row,
    compared,
    extreme,
    fence,
    is_tensor,
    literal_value,
    named,
    operator_name,
    reduction,
)
from optforge.compiler.targets.document.outline import DefinitionMark


class NoNotation(Exception):
    """An operator that nobody has said how to print."""


def print_operation(made: Operation) -> Formula:
    """The formula of an operator on its arguments.

    Raises:
        NoNotation: the operator has no row, and is no elementwise function.
    """
    operator = made.operator
    row = NOTATION.get(operator.name.removeprefix("ieee_"))
    if row is not None:
        return row(made)
    if operator.symbol or operator.across is not Across.ELEMENTWISE or operator.values < len(operator.parameters):
        raise NoNotation(f"`{operator.name}` needs a row in {__name__}")
    return named(operator.word)(made)


# Rows of their own


def product(made: Operation) -> Formula:
    """Side by side; with a sign where both have elements."""
    if not all(map(is_tensor, made.node.arguments)):
        return formulas.multiplied(made.parts[0], made.parts[1])
    one, two = (parenthesized(part) if part.mixes is Mixing.MATRICES else part for part in made.parts)
    return replace(formulas.multiplied(one, two, sign=r"\odot"), mixes=Mixing.ELEMENTS)


def quotient(made: Operation) -> Formula:
    return formulas.fraction(made.parts[0], made.parts[1])


def raised(made: Operation) -> Formula:
    base, exponent = made.parts
    return formulas.power(base, exponent, r"\odot" if made.is_matrix() else "")


def squared(made: Operation) -> Formula:
    return formulas.power(made.parts[0], Formula("2", 0.5), r"\odot" if made.is_matrix() else "")


def logarithm_of_more(made: Operation) -> Formula:
    return formulas.applied(r"\log", 1.5, [formulas.added(Formula("1", 0.5, opens=True), made.parts[0])])


def remainder(made: Operation) -> Formula:
    return formulas.infix(
        formulas.unsigned(made.parts[0]), r"\bmod", at_least(made.parts[1], Tightness.APPLIED), Tightness.PRODUCT, 2.6
    )


def euclidean_norm(made: Operation) -> Formula:
    return norm_formula(made, made.parts[0], "F" if made.axis == "all" and made.is_matrix() else "2")


def norm_formula(made: Operation, inside: Formula, kind: str) -> Formula:
    inner = parenthesized(inside, r"\lVert", r"\rVert")
    width = inner.width + (1.7 if made.axis != "all" else 0.5)
    return Formula(inner.text + made.below(kind), width, Tightness.ATOM, is_tall=inner.is_tall)


def inside_of_absolute(node: ir.Expr) -> ir.Expr | None:
    return node.arguments[0] if isinstance(node, ir.Apply) and node.operator == "abs" else None


def summed(made: Operation) -> Formula:
    """A sum; of absolute values the 1-norm."""
    inner = inside_of_absolute(made.node.arguments[0])
    return reduction("sum")(made) if inner is None else norm_formula(made, made.formula(inner), "1")


def largest(made: Operation) -> Formula:
    """The largest element; of absolute values the infinity norm of elements."""
    inner = inside_of_absolute(made.node.arguments[0])
    return reduction("max")(made) if inner is None else norm_formula(made, made.formula(inner), r"\infty")


def inner_product(made: Operation) -> Formula:
    values = Formula(
        f"{made.parts[0].text}, {made.parts[1].text}",
        made.parts[0].width + made.parts[1].width + 0.6,
        is_tall=made.parts[0].is_tall or made.parts[1].is_tall,
    )
    inner = parenthesized(values, r"\langle", r"\rangle")
    return Formula(inner.text + made.below(), inner.width + 0.8, is_tall=inner.is_tall)


def matrix_product(made: Operation) -> Formula:
    return multiplied_matrices(*made.parts)


def multiplied_matrices(one: Formula, two: Formula) -> Formula:
    one, two = (parenthesized(part) if part.mixes is Mixing.ELEMENTS else part for part in (one, two))
    return replace(formulas.multiplied(one, two), mixes=Mixing.MATRICES)


def transposed(made: Operation) -> Formula:
    whole = at_least(made.parts[0], Tightness.ATOM)
    return Formula(rf"{whole.text}^{{\top}}", whole.width + 0.6, Tightness.POWER, is_tall=whole.is_tall)


def first_columns(made: Operation) -> Formula:
    whole = parenthesized(made.parts[0], "[", "]")
    return Formula(f"{whole.text}_{{:,1:{made.parts[1].text}}}", whole.width + 1.6, is_tall=whole.is_tall)


METHODS = {"newton_schulz": "NewtonSchulz", "polar_express": "PolarExpress", "exact": "Polar", "svd": "Polar"}
OF_THE_NAME = ("x", "steps", "method", "coefficients")  # what the printed name of an orthogonalization says


def method_name(node: ir.Apply) -> str:
    """What an orthogonalization is called after; one that a hyper chooses has a name of its own."""
    return METHODS.get(str(literal_value(node.arguments[2])), "Orthogonalize")


def orthogonalized(made: Operation) -> Formula:
    """The method says how it is called, the number of steps stands below; other settings follow the matrix."""
    name, steps, method = method_name(made.node), made.parts[1].text, made.setting("method")
    triples = literal_value(made.setting("coefficients"))
    below = [] if name in METHODS.values() else [made.formula(method).text]
    if isinstance(triples, tuple) and triples:
        below.append(str(len(triples)))
    elif literal_value(method) != "svd":
        below.append(steps)
    index = f"_{{{','.join(below)}}}" if below else ""
    more = [made.parts[0].text, *(["c"] if triples else []), *other_settings(made)]
    inside = replace(made.parts[0], text="; ".join(more[:2]) + "".join(f", {each}" for each in more[2:]))
    width = 0.55 * len(name) + 0.5 * len(steps.replace(r"\mathrm", "")) + 4.0 * (len(more) - 1)
    return formulas.applied(rf"\operatorname{{{name}}}{index}", width, [inside])


def other_settings(made: Operation) -> Iterator[str]:
    """Settings that are not what they are where nothing is said."""
    for parameter, value in zip(made.operator.parameters, made.node.arguments, strict=True):
        is_usual = isinstance(value, ir.Literal) and value.spelling == parameter.default
        if parameter.name not in OF_THE_NAME and not is_usual:
            yield rf"\mathrm{{{parameter.name}}} = {made.formula(value).text}"


def coefficients_of(node: ir.Apply) -> str:
    """The coefficients of an iteration, if the spec gives them."""
    triples = literal_value(node.arguments[3]) if node.operator == "orthogonalize" else ()
    listed = ["(" + ", ".join(f"{value:g}" for value in triple) + ")" for triple in triples or ()]  # type: ignore
    return f", in steps with the coefficients c = {', '.join(listed)}" if listed else ""


def with_ridge(matrix: Formula, ridge: Formula) -> Formula:
    """The matrix, and a multiple of the identity where that is not 0."""
    return matrix if ridge.text == "0" else formulas.added(matrix, formulas.multiplied(ridge, Formula("I", 0.5)))


def inverse_root(made: Operation) -> Formula:
    matrix, p, eps = made.parts
    exponent = formulas.fraction(Formula("-1", 1.0), p, is_flat=True)
    return formulas.power(with_ridge(matrix, eps), exponent)


def matrix_power(made: Operation) -> Formula:
    matrix, ridge, exponent = made.parts
    return formulas.power(with_ridge(matrix, ridge), exponent)


def logarithm_of_determinant(made: Operation) -> Formula:
    inner = parenthesized(formulas.applied(r"\det", 1.6, made.parts), r"\lvert", r"\rvert")
    return Formula(rf"\log {inner.text}", inner.width + 1.6, Tightness.APPLIED, is_tall=inner.is_tall)


def solution(made: Operation) -> Formula:
    return multiplied_matrices(formulas.power(made.parts[0], Formula("-1", 1.2)), made.parts[1])


def numbered(made: Operation) -> Formula:
    return Formula(rf"\operatorname{{index}}{made.below()}", 3.6, Tightness.ATOM, closes=True)


def sum_over_parameters(made: Operation) -> Formula:
    inner = at_least(made.parts[0], Tightness.PRODUCT)
    return Formula(rf"\sum_{{\mathcal{{P}}}} {inner.text}", inner.width + 1.6, Tightness.SUM, is_tall=True)


def same(made: Operation) -> Formula:
    return made.parts[0]


def call_formula(mark: DefinitionMark, parts: Sequence[Formula]) -> Formula:
    """A function with what it is applied to, and below its name settings such as an axis."""
    name = function_name(mark.function.name.name)
    below = ",".join(rf"\mathrm{{{formulas.escape_word(each)}}}" for each in mark.settings)
    width = 0.55 * len(name) + sum(0.4 * len(each) for each in mark.settings)
    return formulas.applied(operator_name(name) + (f"_{{{below}}}" if below else ""), width, parts)


def function_name(word: str) -> str:
    """``sinkhorn_round`` as one word, ``SinkhornRound``."""
    return "".join(part[:1].upper() + part[1:] for part in word.split("_"))


def lerp(made: Operation) -> Formula:
    x, y, w = made.parts
    return formulas.added(x, formulas.multiplied(w, formulas.subtracted(y, x)))


def accumulate(made: Operation) -> Formula:
    x, y, w = made.parts
    return formulas.added(formulas.multiplied(w, x), y)


def random_numbers(name: str) -> Row:
    """Draws: told apart by the key of their stream, where there is one."""

    def row(made: Operation) -> Formula:
        key = made.parts[1].text if len(made.parts) > 1 and made.parts[1].text != "0" else ""
        count = f"^{{({key})}}" if key else ""
        return Formula(rf"\operatorname{{{name}}}{count}", 0.5 * len(name) + 0.8, Tightness.POWER, closes=True)

    return row


NOTATION: Mapping[str, Row] = {
    "add": lambda made: formulas.added(*made.parts),
    "sub": lambda made: formulas.subtracted(*made.parts),
    "mul": product,
    "div": quotient,
    "pow": raised,
    "square": squared,
    "neg": lambda made: formulas.negative(*made.parts),
    "sqrt": lambda made: formulas.root(*made.parts),
    "log1p": logarithm_of_more,
    "abs": fence(r"\lvert", r"\rvert"),
    "atan": named("arctan"),
    "floor": fence(r"\lfloor", r"\rfloor"),
    "mod": remainder,
    "min": extreme("min"),
    "max": extreme("max"),
    "clamp": named("clip"),
    "lt": compared("<"),
    "le": compared(r"\le"),
    "gt": compared(">"),
    "ge": compared(r"\ge"),
    "eq": compared("="),
    "ne": compared(r"\ne"),
    "and": lambda made: formulas.infix(made.parts[0], r"\land", made.parts[1], Tightness.AND),
    "or": lambda made: formulas.infix(made.parts[0], r"\lor", made.parts[1], Tightness.OR),
    "not": lambda made: Formula(
        rf"\lnot {at_least(made.parts[0], Tightness.APPLIED).text}", made.parts[0].width + 1.5, Tightness.NOT
    ),
    "sum": summed,
    "mean": reduction("mean"),
    "norm": euclidean_norm,
    "dot": inner_product,
    "amax": largest,
    "amin": reduction("min"),
    "rank": reduction("order"),
    "quantile": lambda made: formulas.applied(
        rf"\operatorname{{quantile}}{made.below(made.parts[1].text)}", 5.0, made.parts[:1]
    ),
    "median": reduction("median"),
    "corner": reduction("first"),
    "matmul": matrix_product,
    "transpose": transposed,
    "leading": first_columns,
    "trace": named("tr"),
    "det": named("det"),
    "logdet": logarithm_of_determinant,
    "orthogonalize": orthogonalized,
    "inverse_root": inverse_root,
    "mpower": matrix_power,
    "eigenvalues": named("eigenvalues"),
    "eigenbasis": named("eigenbasis"),
    "qr": named("qr"),
    "solve": solution,
    "cholesky": named("chol"),
    "index": numbered,
    "place": numbered,
    "total": sum_over_parameters,
    "uniform": random_numbers("uniform"),
    "normal": random_numbers("normal"),
    "sign_noise": random_numbers("sign"),
    "drawn_uniform": random_numbers("uniform"),
    "drawn_normal": random_numbers("normal"),
    "drawn_sign_noise": random_numbers("sign"),
    "fill": same,
    "whole": same,
    "lerp": lerp,
    "accumulate": accumulate,
}


# What is said of operators below the equations that they stand in: the printed names of those that papers have no sign
# for.
EXPLAINED: Mapping[str, str] = {
    "clamp": "clip",
    "round": "round",
    "rank": "order",
    "quantile": "quantile",
    "eigenvalues": "eigenvalues",
    "eigenbasis": "eigenbasis",
    "qr": "qr",
    "cholesky": "chol",
    "index": "index",
    "place": "index",
    "uniform": "uniform",
    "normal": "normal",
    "sign_noise": "sign",
    "drawn_uniform": "uniform",
    "drawn_normal": "normal",
    "drawn_sign_noise": "sign",
}


DRAWN = "drawn_"  # before the name of what a spec says, in that of the operator that stands for it


def explanation(node: ir.Apply) -> tuple[str, ...]:
    """A sentence on an operator in the words of the table; empty where its sign says it."""
    operator = OPERATORS[node.operator]
    name = method_name(node) if operator.name == "orthogonalize" else EXPLAINED.get(operator.name)
    if name is None:
        return ()
    if operator.name.startswith(DRAWN):
        said, _, _ = OPERATORS[operator.name.removeprefix(DRAWN)].doc.partition(",")
        return (f"{name}: {said}, anew in each step.",)
    parameters = ", ".join(each.name for each in operator.parameters[: operator.values])
    called = f"{name}({parameters})" if parameters else name
    return (f"{called}: {operator.doc}{coefficients_of(node)}.",)
