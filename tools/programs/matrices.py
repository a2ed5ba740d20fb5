"""Productions of matrix operators, each on arguments for which its result is well determined."""

from __future__ import annotations

from optforge.compiler.ir.types import FULL, SCALAR, Dim, Phase, Shape
from optforge.dsl import ast
from tools.programs.grower import Grower, Production, Scope
from tools.programs.terms import (
    DATA_BOUND,
    WEIGHT_BOUND,
    Term,
    Variable,
    call_node,
    literal,
    name,
    swapped,
)

COEFFICIENTS = (
    ((2.0, -1.5, 0.5),),
    ((3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5)),
    ((1.5, -0.5, 0.0),),
)


def is_matrix(scope: Scope, shape: Shape) -> bool:
    return scope.is_matrix and bool(scope.data)


def has_data(scope: Scope, shape: Shape) -> bool:
    return is_matrix(scope, shape) and not scope.is_smooth


def product(grower: Grower, shape: Shape, depth: int) -> Term:
    inner = grower.dice.pick((Dim.COLS, Dim.ROWS))
    left, right = grower.exact((shape[0], inner), depth - 1), grower.exact((inner, shape[1]), depth - 1)
    node = ast.Binary("@", left.node, right.node)
    return Term(node, shape, 12 * left.bound * right.bound, Phase.STREAM, shape)


def transpose(grower: Grower, shape: Shape, depth: int) -> Term:
    return swapped(grower.exact(shape[::-1], depth))


def is_data_shape(scope: Scope, shape: Shape) -> bool:
    return has_data(scope, shape) and shape in (FULL, FULL[::-1])


def orthogonalized(grower: Grower, shape: Shape, depth: int) -> Term:
    """The polar factor of data in general position."""
    term = grower.solid()
    assert term is not None
    if shape != FULL:
        term = swapped(term)
    keywords: dict[str, ast.Expression] = {}
    match grower.dice.below(5):
        case 1:
            keywords["method"] = grower.setting("method")
        case 2:
            keywords["steps"] = grower.setting("iterations")
        case 3:
            keywords["coefficients"] = triples(grower.dice.pick(COEFFICIENTS))
        case 4:
            keywords["steps"], keywords["method"] = grower.setting("iterations"), grower.setting("method")
    if grower.dice.chance(25):
        keywords["scale"] = ast.Text("schatten4")
    if grower.dice.chance(25):
        keywords["eps"] = ast.Number(grower.dice.pick(("0.1", "1e-7")))
    return Term(grower.call("orthogonalize", term.node, **keywords), shape, 1.5, Phase.STREAM, shape)


def triples(rows: tuple[tuple[float, float, float], ...]) -> ast.Expression:
    """One triple as it is, several in a tuple of tuples."""
    shown = [ast.Tuple(tuple(signed(value) for value in row)) for row in rows]
    return shown[0] if len(shown) == 1 else ast.Tuple(tuple(shown))


def signed(value: float) -> ast.Expression:
    return ast.Unary("-", ast.Number(repr(-value))) if value < 0 else ast.Number(repr(value))


# Symmetric matrices


def is_gram(scope: Scope, shape: Shape) -> bool:
    return has_data(scope, shape) and shape[0] is shape[1] and shape != SCALAR


def semidefinite(grower: Grower, shape: Shape, depth: int) -> Term:
    """``x @ x'``, or an average of such, or a kernel."""
    form = grower.dice.below(4)
    if form == 3:
        return kernel(grower, shape)
    x = grower.exact(FULL, depth - 1)
    pair = (x, swapped(x)) if shape[0] is Dim.ROWS else (swapped(x), x)
    node: ast.Expression = ast.Binary("@", pair[0].node, pair[1].node)
    if form == 2 and grower.scope.has_state:
        node = grower.call("ema", node, grower.setting("decay"))
    return Term(node, shape, 12 * x.bound**2, Phase.STREAM, shape)


def kernel(grower: Grower, shape: Shape) -> Term:
    """A positive definite matrix with distinct eigenvalues, whatever the dimensions: d exp(-|a - a'|) d."""
    per = "row" if shape[0] is Dim.ROWS else "col"
    first, last = grower.scope.data[0].name, grower.scope.data[-1].name
    a: ast.Expression = ast.Binary("*", ast.Number("2"), call_node("mean", name(first), per=name(per)))
    d: ast.Expression = ast.Binary(
        "+", ast.Number("0.5"), call_node("abs", call_node("mean", name(last), per=name(per)))
    )
    apart = call_node("exp", ast.Unary("-", call_node("abs", ast.Binary("-", a, ast.Unary("'", a)))))
    node: ast.Expression = ast.Binary("*", ast.Binary("*", apart, d), ast.Unary("'", d))
    if grower.scope.has_state and grower.dice.chance(40):
        node = grower.call("ema", node, grower.setting("decay"))
    return Term(node, shape, (0.5 + max(DATA_BOUND, WEIGHT_BOUND)) ** 2, Phase.STREAM, shape)


def inverse_root(grower: Grower, shape: Shape, depth: int) -> Term:
    gram = semidefinite(grower, shape, depth)
    eps = ast.Number(grower.dice.pick(("0.1", "0.5", "1")))
    arguments = (gram.node, grower.setting("root"))
    node = grower.call("inverse_root", *arguments, eps) if grower.dice.chance(50) else (
        grower.call("inverse_root", *arguments, eps=eps))  # fmt: skip
    return Term(node, shape, 10, Phase.STREAM, shape)


def solution(grower: Grower, shape: Shape, depth: int) -> Term:
    """The solution of a system with a matrix that has an inverse."""
    x = grower.exact(shape, depth - 1)
    node = grower.call("solve", definite(grower, shape[0], depth), x.node)
    return Term(node, shape, 12 * x.bound, Phase.STREAM, shape)


def factor(grower: Grower, shape: Shape, depth: int) -> Term:
    return Term(grower.call("cholesky", definite(grower, shape[0], depth)), shape, 5, Phase.STREAM, shape)


def definite(grower: Grower, dim: Dim, depth: int) -> ast.Expression:
    """The kernel and something semidefinite, which has small eigenvalues only if both do."""
    shape = (dim, dim)
    own = kernel(grower, shape).node
    return ast.Binary("+", own, semidefinite(grower, shape, depth).node) if grower.dice.chance(40) else own


def power(grower: Grower, shape: Shape, depth: int) -> Term:
    """A power of something semidefinite; of what has no inverse with a ridge, be it a hyper or a stream."""
    exponent = grower.dice.pick(("0.5", "-0.25", "-0.5", "1.5"))
    ridge = grower.dice.pick((ast.Number("0.5"), grower.setting("decay"), positive_mean(grower)))
    node = grower.call("mpower", semidefinite(grower, shape, depth).node, literal(exponent), ridge=ridge)
    return Term(node, shape, 60, Phase.STREAM, shape)


def positive_mean(grower: Grower) -> ast.Expression:
    first = name(grower.scope.data[0].name)
    return ast.Binary("+", ast.Number("0.3"), call_node("mean", call_node("abs", first)))


def spectrum(grower: Grower, shape: Shape, depth: int) -> Term:
    dim = shape[1]
    own = (Dim.ONE, dim)
    return Term(grower.call("eigenvalues", kernel(grower, (dim, dim)).node), own, 20, Phase.STREAM, own)


def has_columns(scope: Scope, shape: Shape) -> bool:
    return has_data(scope, shape) and shape[1] is not Dim.ONE


def basis(grower: Grower, shape: Shape) -> Term:
    function = grower.dice.pick(("eigenbasis", "qr"))
    return Term(grower.call(function, kernel(grower, shape).node), shape, 1, Phase.STREAM, shape)


def orthonormal(grower: Grower, shape: Shape, depth: int) -> Term:
    return basis(grower, shape)


def rotated(grower: Grower, shape: Shape, depth: int) -> Term:
    """``q @ f(q' @ x)`` with an odd f: the same whatever the signs of the columns of q."""
    q = basis(grower, (shape[0], shape[0]))
    x = grower.exact(shape, depth - 1)
    inner = ast.Binary("@", ast.Unary("'", q.node), x.node)
    node = ast.Binary("@", q.node, call_node("tanh", inner))
    return Term(node, shape, 4, Phase.STREAM, shape)


def masked(grower: Grower, shape: Shape, depth: int) -> Term:
    """Two parts of a matrix by their places."""
    gram = semidefinite(grower, shape, depth)
    parts = (("lower", "diagonal"), ("identity", "upper"), ("upper", "lower"))
    first, second = (grower.call(part, gram.node) for part in grower.dice.pick(parts))
    return Term(ast.Binary("-", first, second), shape, gram.bound + 1, Phase.STREAM, shape)


def can_be_numbered(scope: Scope, shape: Shape) -> bool:
    return is_matrix(scope, shape) and shape != SCALAR


def numbered(grower: Grower, shape: Shape, depth: int) -> Term:
    """The numbers of rows or columns, as shares of all."""
    axis = grower.dice.pick([0, 1] if Dim.ONE not in shape else [0 if shape[1] is Dim.ONE else 1])
    per, of = ("row", "col")[axis], FULL if shape[axis] is (Dim.ROWS, Dim.COLS)[axis] else FULL[::-1]
    keywords: dict[str, ast.Expression] = {}
    if of != FULL or grower.dice.chance(30):
        keywords["of"] = grower.exact(of, depth - 1).node
    size = name("rows" if shape[axis] is Dim.ROWS else "cols")
    node = ast.Binary("/", grower.call("index", name(per), **keywords), size)
    own = (shape[0], Dim.ONE) if axis == 0 else (Dim.ONE, shape[1])
    return Term(node, own, 1, Phase.STREAM, own)


def is_square_left(scope: Scope, shape: Shape) -> bool:
    return has_data(scope, shape) and shape[0] is not Dim.ONE


def traced(grower: Grower, shape: Shape, depth: int) -> Term:
    dim = grower.dice.pick((Dim.ROWS, Dim.COLS))
    if grower.dice.chance(40):
        root = inverse_root(grower, (dim, dim), depth)
        if dim is Dim.ROWS:
            return Term(grower.call("logdet", root.node), SCALAR, 60)
        return Term(grower.call("det", root.node), SCALAR, 1e6)
    gram = semidefinite(grower, (dim, dim), depth)
    return Term(grower.call("trace", gram.node), SCALAR, 12 * gram.bound)


# Values with a dimension of their own


def grow_sketch(grower: Grower) -> tuple[list[ast.Statement], Variable]:
    """A dimension, values that have it, and what they make of the gradient, as large as that."""
    dice, r, x = grower.dice, name("r"), grower.scope.data[0].name
    sizes: tuple[ast.Expression, ...] = (
        ast.Number("2"),
        call_node("min", ast.Number("3"), name("rows"), name("cols")),
        ast.Binary("/", ast.Binary("+", name("cols"), ast.Number("1")), ast.Number("2")),
    )
    gram = kernel(grower, (Dim.ROWS, Dim.ROWS)).node
    tall = call_node("leading", call_node("eigenbasis", gram), r)
    if dice.chance(50):
        tall = call_node("qr", call_node("leading", gram, r))
    low: ast.Expression = ast.Binary("@", ast.Unary("'", name("tall")), name(x))
    if grower.scope.has_state:
        low = grower.call("ema", low, grower.setting("decay"))
    pair = ast.Binary("@", name("low"), ast.Unary("'", name("low")))
    root = call_node("inverse_root", pair, ast.Number("2"), ast.Number("0.5"))
    length = ast.Binary("+", ast.Number("0.5"), call_node("norm", name("low"), per=name("row")))
    short = ast.Binary("@", root, name("low")) if dice.chance(50) else ast.Binary("/", name("low"), length)
    back = call_node("tanh", ast.Binary("/", ast.Binary("@", name("tall"), short), r))
    bindings = {"tall": tall, "low": low, "sketch": back}
    statements: list[ast.Statement] = [ast.Dimension(ast.Identifier("r"), dice.pick(sizes))]
    statements += [ast.Binding(ast.Identifier(text), value) for text, value in bindings.items()]
    return statements, Variable("sketch", FULL, bound=1)


MATRIX_PRODUCTIONS = (
    Production(8, product, is_matrix),
    Production(4, transpose, is_matrix),
    Production(9, orthogonalized, is_data_shape),
    Production(8, semidefinite, is_gram),
    Production(8, inverse_root, is_gram),
    Production(8, orthonormal, is_gram),
    Production(8, power, is_gram),
    Production(4, spectrum, has_columns),
    Production(8, factor, is_gram),
    Production(4, solution, is_square_left),
    Production(8, masked, is_gram),
    Production(3, numbered, can_be_numbered),
    Production(5, rotated, is_square_left),
    Production(4, traced, has_data),
)
