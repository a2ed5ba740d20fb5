"""The formatter: what it prints parses to the same tree, is final, and keeps every comment."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optforge.dsl import ast
from optforge.dsl.grammar import end_of, load_keywords, scan, start_of
from optforge.dsl.parser import parse_expression, parse_source
from optforge.dsl.precedence import INFIX
from optforge.dsl.printer import print_expression, print_file
from optforge.dsl.source import Source

KEYWORDS = frozenset(load_keywords())

# Trees of every kind of node, written by chance.

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,24}", fullmatch=True).filter(lambda name: name not in KEYWORDS)
identifiers = names.map(ast.Identifier)
numbers = st.sampled_from(["0", "3", "0.50", "1e-8", "1E+3", "007", "12.5e10", "inf"]).map(ast.Number)
strings = st.one_of(
    st.from_regex(r'[^"\n\r\0]{0,12}', fullmatch=True),
    st.from_regex(r'([^"\r]|"[^"\r]){0,12}', fullmatch=True),
).map(ast.Text)
docs = st.none() | strings


def tuples_of(values: st.SearchStrategy, least: int, most: int) -> st.SearchStrategy:
    return st.lists(values, min_size=least, max_size=most).map(tuple)


def grow(expressions: st.SearchStrategy[ast.Expression]) -> st.SearchStrategy[ast.Expression]:
    keywords = tuples_of(st.tuples(identifiers, expressions), 0, 2)
    calls = st.builds(ast.Call, identifiers, tuples_of(expressions, 0, 3), keywords)
    comparisons = tuples_of(st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), expressions), 1, 2)
    sequences = st.builds(ast.Tuple, tuples_of(expressions, 2, 3))
    repetitions = st.none() | st.builds(ast.Repetition, expressions)
    repetitions |= st.builds(ast.Repetition, expressions, identifiers, expressions)
    return st.one_of(
        st.builds(ast.Unary, st.sampled_from(["-", "not", "'"]), expressions),
        st.builds(ast.Binary, st.sampled_from(sorted(INFIX)), expressions, expressions),
        st.builds(ast.Comparison, expressions, comparisons),
        st.builds(ast.Member, expressions, sequences),
        st.builds(ast.Select, expressions, expressions, expressions),
        sequences,
        calls,
        st.builds(ast.Pipe, expressions, calls, repetition=repetitions),
        st.builds(
            lambda value, name, repetition: ast.Pipe(value, ast.Call(name, ()), True, repetition),
            expressions,
            identifiers,
            repetitions,
        ),
    )


leaves = st.one_of(numbers, st.booleans().map(ast.Boolean), strings, names.map(ast.Name), identifiers.map(ast.Super))
expressions = st.recursive(leaves, grow, max_leaves=12)

bindings = st.builds(ast.Binding, identifiers, expressions)
equations = bindings | st.builds(ast.Update, identifiers, expressions)
claims = st.builds(ast.Claim, expressions)
pasts = st.builds(ast.Was, identifiers, expressions)
optional = st.none() | expressions
hypers = st.builds(ast.Hyper, identifiers, optional, optional, docs, optional)
roles = tuples_of(identifiers, 1, 2)
rules = st.builds(ast.Rule, roles, tuples_of(equations | claims | pasts, 1, 4), docs)
keywords = tuples_of(st.tuples(identifiers, expressions), 0, 2)
delegates = st.builds(ast.Delegate, roles, identifiers, tuples_of(expressions, 0, 2), keywords)
parameters = st.builds(
    lambda bare, full: bare + full,
    tuples_of(st.builds(ast.Parameter, identifiers), 0, 2),
    tuples_of(st.builds(ast.Parameter, identifiers, expressions), 0, 2),
)
events = st.builds(ast.Event, identifiers, parameters, tuples_of(equations, 1, 3), docs)
functions = st.builds(ast.Function, identifiers, parameters, st.just(()), expressions) | st.builds(
    ast.Function, identifiers, parameters, tuples_of(equations, 0, 3), expressions, docs, st.just(True)
)
items = st.one_of(
    functions,
    st.builds(
        ast.Optimizer, identifiers, st.none() | identifiers, tuples_of(hypers | rules | delegates | events, 1, 4), docs
    ),
    st.builds(ast.Schedule, identifiers, tuples_of(hypers | equations, 1, 4), docs),
    st.builds(ast.Taken, identifiers, tuples_of(identifiers, 1, 3)),
    st.builds(ast.Penalty, identifiers, tuples_of(hypers | rules | delegates, 1, 3), docs),
)
files = st.builds(ast.File, docs, tuples_of(items, 1, 3))


class Spec:
    """A file shown as its text: Hypothesis takes hours to spell out the calls that build a deep tree."""

    def __init__(self, tree: ast.File) -> None:
        self.tree = tree

    def __repr__(self) -> str:
        return print_file(self.tree)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    return Spec(draw(files))


def parse(text: str) -> ast.File:
    tree, diagnostics = parse_source(Source("test.opt", text))
    assert tree is not None, (diagnostics, text)
    return tree


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_printed_expressions_read_back(expression: ast.Expression) -> None:
    tree, diagnostics = parse_expression(Source("test.opt", print_expression(expression)))
    assert tree == expression, (diagnostics, print_expression(expression))


def holes(inner: ast.Expression) -> list[ast.Expression]:
    """Every place in which an expression can stand inside another."""
    x, f = ast.Name("x"), ast.Identifier("f")
    return [
        *(ast.Unary(operator, inner) for operator in ("-", "not", "'")),
        *(ast.Binary(operator, inner, x) for operator in INFIX),
        *(ast.Binary(operator, x, inner) for operator in INFIX),
        ast.Comparison(inner, (("<", x),)),
        ast.Comparison(x, (("<", inner), ("<", x))),
        ast.Comparison(x, (("<", x), ("<", inner))),
        ast.Member(inner, ast.Tuple((x, x))),
        ast.Member(x, ast.Tuple((inner, x))),
        ast.Select(inner, x, x),
        ast.Select(x, inner, x),
        ast.Select(x, x, inner),
        ast.Call(f, (inner,), ((f, inner),)),
        ast.Pipe(inner, ast.Call(f, (x,))),
        ast.Pipe(inner, ast.Call(f, ()), bare=True),
        ast.Pipe(inner, ast.Call(f, ()), True, ast.Repetition(x)),
        ast.Pipe(x, ast.Call(f, (x,)), False, ast.Repetition(inner)),
        ast.Pipe(x, ast.Call(f, ()), True, ast.Repetition(inner, f, x)),
        ast.Pipe(x, ast.Call(f, ()), True, ast.Repetition(x, f, inner)),
    ]


def test_every_operator_inside_every_other_reads_back() -> None:
    twice = [outer for inner in holes(ast.Name("x")) for outer in holes(inner)]
    for expression in twice:
        tree, _ = parse_expression(Source("test.opt", print_expression(expression)))
        assert tree == expression, print_expression(expression)


@settings(max_examples=60, deadline=None)
@given(specs())
def test_printed_files_read_back_and_are_final(spec: Spec) -> None:
    text = print_file(spec.tree)
    tree = parse(text)
    assert tree == spec.tree
    assert print_file(tree) == text


def sprinkle(text: str, seed: int) -> tuple[str, list[str]]:
    """The text with comments where they may stand: behind lines, between lines, inside brackets."""
    rng = random.Random(seed)
    pieces: list[str] = []
    comments: list[str] = []
    depth = end = 0

    def comment() -> str:
        comments.append(f"# note {len(comments)}")
        return comments[-1]

    for token in scan(text):
        pieces.append(text[end : start_of(token)])
        if token.type == "_NL" and rng.random() < 0.2:
            pieces.append("  " + comment())
        pieces.append(token.value)
        depth += (token.type == "LPAR") - (token.type == "RPAR")
        if token.type == "_NL" and rng.random() < 0.3:
            pieces.append("\n" * rng.randrange(3) + " " * rng.randrange(12) + comment() + "\n" * rng.randrange(1, 4))
        elif depth and rng.random() < 0.1:
            pieces.append(f" {comment()}\n" if rng.random() < 0.5 else f"\n{comment()}\n")
        end = end_of(token)
    return "".join([*pieces, text[end:]]), comments


@settings(max_examples=60, deadline=None)
@given(specs(), st.integers(0, 1000))
def test_every_comment_survives_once(spec: Spec, seed: int) -> None:
    text, comments = sprinkle(print_file(spec.tree), seed)
    tree = parse(text)
    assert tree == spec.tree
    printed = print_file(tree)
    again = parse(printed)
    assert again == tree
    assert sorted(comment.text for comment in again.comments) == sorted(comments)
    assert print_file(again) == printed


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("((a))", "a"),
        ("f(a, b=2,)", "f(a, b=2)"),
        ("(a + b) + c", "a + b + c"),
        ("a - (b - c)", "a - (b - c)"),
        ("a * (b / c)", "a * (b / c)"),
        ("-(x ^ 2)", "-x^2"),
        ("(-x) ^ 2", "(-x)^2"),
        ("x ^ -2", "x^-2"),
        ("(x ^ y) ^ z", "(x^y)^z"),
        ("x ^ (y ^ z)", "x^y^z"),
        ("(-x)'", "(-x)'"),
        ("-(x')", "-x'"),
        ("(x ^ 2)'", "(x^2)'"),
        ("x ^ (2')", "x^2'"),
        ("(a @ b)'", "(a @ b)'"),
        ("not (a and b)", "not (a and b)"),
        ("(not a) and b", "not a and b"),
        ("not (a < b)", "not a < b"),
        ("(not a) < b", "(not a) < b"),
        ("(a < b) < c", "(a < b) < c"),
        ("a < b < c", "a < b < c"),
        ("(a if b else c) |> f", "(a if b else c) |> f"),
        ("a if b else (c |> f)", "a if b else c |> f"),
        ("a if b else (c if d else e)", "a if b else c if d else e"),
        ("(a if b else c) if d else e", "(a if b else c) if d else e"),
        ("(a |> f(b)) |> g", "a |> f(b) |> g"),
        ("a |> f()", "a |> f()"),
        ("x in (1, (2, 3),)", "x in (1, (2, 3))"),
        ('"""a"""', '"a"'),
        ('"""say "a" b"""', '"""say "a" b"""'),
    ],
)
def test_parentheses_are_as_few_as_possible(text: str, printed: str) -> None:
    tree, _ = parse_expression(Source("test.opt", text))
    assert tree is not None
    assert print_expression(tree) == printed


SAMPLE = '''\
"""What it is."""

# An average.
def ema(x, decay, init=0):
    s = decay * prev(s, init) + (1 - decay) * x  # the state
    return s

optimizer Sample extends Base:
    """Says what it does."""
    hyper lr           = 1e-2 where lr >= 0              "learning rate"
    hyper mu1          = 0.95 where 0 <= mu1 <= mu2 < 1  "decay of the momentum"
    hyper mu2          = 0.99
    hyper weight_decay = 0.1  where weight_decay >= 0

    hyper method = "svd" was variant where method in ("svd", "exact")

    on curvature(batch_size):
        h = ema(batch_size * grad^2, mu2)
    for matrix, conv:
        m     = momentum(grad, mu1)
        alpha = norm(debias(m, mu1)) / (sqrt(debias(v, mu2)) + eps)
        weight <- (
            weight
            - lr * alpha * (orthogonalize(m) + weight_decay * weight) / max(norm(weight), 1e-10)
        )

        claim state(rows * cols + 1)
        m was exp_avg
        # the end of the rule

    for rest: use AdamW(lr=lr, beta2=0.95, weight_decay=0)

# the end
'''


def test_layout_is_the_one_of_the_language_page() -> None:
    assert print_file(parse(SAMPLE)) == SAMPLE
    squeezed = re.sub(r"(?<=\S) +", " ", SAMPLE).replace("(\n            weight\n           ", "(weight")
    assert print_file(parse(squeezed)) == SAMPLE


def test_comments_behind_a_broken_return_stay_close() -> None:
    text = f"def f(x):\n    return {'x + ' * 30}x  # one\n    # two\n\n    # three\n"
    printed = print_file(parse(text))
    assert printed.endswith("        + x\n    )  # one\n    # two\n\n    # three\n")
    assert print_file(parse(printed)) == printed


def test_long_lines_are_broken_inside_brackets() -> None:
    names = ", ".join(f"argument_number_{index}={index} + (1 if x else {index})" for index in range(8))
    text = print_file(parse(f"def f(x) = g({names}) + sum(x) |> h if x <= 1 else -({'x + ' * 40}x)^2\n"))
    assert max(map(len, text.splitlines())) <= 100
    assert print_file(parse(text)) == text
