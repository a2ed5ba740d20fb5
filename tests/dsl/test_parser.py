"""The parser: trees and places for right specs, diagnostics and nothing else for any other text."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optforge.dsl import ast, grammar
from optforge.dsl.diagnostics import Diagnostic, render_text
from optforge.dsl.grammar import end_of, scan, start_of
from optforge.dsl.parser import MAX_ERRORS, MAX_SIZE, parse_expression, parse_source, read_source
from optforge.dsl.source import Source
from optforge.dsl.tree import EXPRESSIONS, MAX_DEPTH, TreeBuilder

DSL = Path(grammar.__file__).parent

SAMPLE = '''\
"""What it is."""  # a remark

# An average.
def ema(x, decay, init=0):
    """Says what it does."""
    s = decay * prev(s, init) + (1 - decay) * x
    return s
def debias(x, decay) = x / (1 - decay^t)

optimizer Sample extends Base:
    """First line.

    Last line."""
    hyper lr     = 1e-2 where lr >= 0 "learning rate"
    hyper method = "svd" where method in ("svd", "exact",)
    hyper free

    on curvature(batch_size, k=1):
        h = ema(batch_size * grad^2, mu2)
    for matrix, conv:
        m = grad |> momentum(beta1) |> orthogonalize
        u = clamp(m / max(h, eps), -1, 1) if not t < 3 and true or false else -m'^2
        weight <- (
            weight  # the old one
            - lr * u @ (weight' @ weight)
        )
        claim 0 <= norm(u) < inf
    for rest: use AdamW(lr, beta2=0.95)

schedule Warm:
    hyper total where total > 0
    factor <- min(t / total, 1)

penalty Small:
    for matrix:
        loss <- sum(weight^2)
# the end'''


def parse(text: str) -> ast.File:
    tree, diagnostics = parse_source(Source("test.opt", text))
    assert tree is not None, render_text(diagnostics)
    return tree


def codes(text: str) -> list[str]:
    return [diagnostic.code for diagnostic in parse_source(Source("test.opt", text))[1]]


def walk(node: object) -> Iterator[ast.Node]:
    if isinstance(node, ast.Node):
        yield node
        for field in fields(node):
            yield from walk(getattr(node, field.name)) if field.name != "span" else ()
    elif isinstance(node, tuple):
        for part in node:
            yield from walk(part)


def test_a_whole_file_becomes_a_tree() -> None:
    file = parse(SAMPLE)
    assert file.doc == ast.Text("What it is.")
    assert [type(item).__name__ for item in file.items] == ["Function", "Function", "Optimizer", "Schedule", "Penalty"]
    long, short, optimizer, schedule, penalty = file.items
    assert isinstance(long, ast.Function) and long.is_block and long.doc == ast.Text("Says what it does.")
    assert [parameter.name.name for parameter in long.parameters] == ["x", "decay", "init"]
    assert long.parameters[2].default == ast.Number("0") and long.result == ast.Name("s")
    assert isinstance(short, ast.Function) and not short.is_block and short.body == ()
    assert isinstance(optimizer, ast.Optimizer) and optimizer.base == ast.Identifier("Base")
    assert optimizer.doc == ast.Text("First line.\n\n    Last line.")
    assert isinstance(schedule, ast.Schedule) and isinstance(penalty, ast.Penalty)
    lr, method, free, event, rule, delegate = optimizer.members
    assert lr == ast.Hyper(
        ast.Identifier("lr"),
        ast.Number("1e-2"),
        ast.Comparison(ast.Name("lr"), ((">=", ast.Number("0")),)),
        ast.Text("learning rate"),
    )
    assert isinstance(method, ast.Hyper) and isinstance(method.condition, ast.Member)
    assert method.condition.choices == ast.Tuple((ast.Text("svd"), ast.Text("exact")))
    assert free == ast.Hyper(ast.Identifier("free"))
    assert isinstance(event, ast.Event) and event.parameters[1].default == ast.Number("1")
    assert isinstance(rule, ast.Rule) and rule.roles == (ast.Identifier("matrix"), ast.Identifier("conv"))
    assert [type(statement).__name__ for statement in rule.statements] == ["Binding", "Binding", "Update", "Claim"]
    assert delegate == ast.Delegate(
        (ast.Identifier("rest"),),
        ast.Identifier("AdamW"),
        (ast.Name("lr"),),
        ((ast.Identifier("beta2"), ast.Number("0.95")),),
    )
    assert [(comment.text, comment.own_line) for comment in file.comments] == [
        ("# a remark", False),
        ("# An average.", True),
        ("# the old one", False),
        ("# the end", True),
    ]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("-x^2", ast.Unary("-", ast.Binary("^", ast.Name("x"), ast.Number("2")))),
        ("x^-y'", ast.Binary("^", ast.Name("x"), ast.Unary("-", ast.Unary("'", ast.Name("y"))))),
        ("a - b - c", ast.Binary("-", ast.Binary("-", ast.Name("a"), ast.Name("b")), ast.Name("c"))),
        ("a^b^c", ast.Binary("^", ast.Name("a"), ast.Binary("^", ast.Name("b"), ast.Name("c")))),
        ("x |> f |> g(1)", ast.Pipe(
            ast.Pipe(ast.Name("x"), ast.Call(ast.Identifier("f"), ()), bare=True),
            ast.Call(ast.Identifier("g"), (ast.Number("1"),)),
        )),
        ("x |> f times 3 |> g(k) for k in 1..n + 2", ast.Pipe(
            ast.Pipe(ast.Name("x"), ast.Call(ast.Identifier("f"), ()), True, ast.Repetition(ast.Number("3"))),
            ast.Call(ast.Identifier("g"), (ast.Name("k"),)),
            repetition=ast.Repetition(
                ast.Binary("+", ast.Name("n"), ast.Number("2")), ast.Identifier("k"), ast.Number("1")
            ),
        )),
        ("a if b else c if d else e", ast.Select(
            ast.Name("b"), ast.Name("a"), ast.Select(ast.Name("d"), ast.Name("c"), ast.Name("e"))
        )),
        ("0 <= b < inf", ast.Comparison(ast.Number("0"), (("<=", ast.Name("b")), ("<", ast.Number("inf"))))),
        ("not a or b and true", ast.Binary(
            "or", ast.Unary("not", ast.Name("a")), ast.Binary("and", ast.Name("b"), ast.Boolean(True))
        )),
    ],
)  # fmt: skip
def test_operators_bind_as_the_language_page_says(text: str, tree: ast.Expression) -> None:
    assert parse_expression(Source("test.opt", text)) == (tree, ())


def test_spans_cover_the_whole_construct() -> None:
    file = parse(SAMPLE)
    source = file.span.source
    texts = {type(node).__name__: node.span.text for node in walk(file)}
    assert texts["Delegate"] == "for rest: use AdamW(lr, beta2=0.95)"
    assert texts["Penalty"] == SAMPLE[SAMPLE.index("penalty") : SAMPLE.index("\n# the end")]
    for node in walk(file):
        assert node.span.source is source
        if isinstance(node, ast.Name | ast.Identifier):
            assert node.span.text == node.name
        elif isinstance(node, ast.Comment):
            assert node.span.text == node.text
        elif not isinstance(node, ast.File):
            assert node.span.text == node.span.text.strip() != ""
            assert all(node.span.start <= part.span.start <= part.span.end <= node.span.end for part in walk(node))


def test_brackets_belong_to_what_they_make() -> None:
    tree, _ = parse_expression(Source("test.opt", "  ((a) + b) * f(c)' "))
    assert isinstance(tree, ast.Binary)
    assert tree.span.text == "((a) + b) * f(c)'"
    assert (tree.left.span.text, tree.right.span.text) == ("(a) + b", "f(c)'")


def test_line_ends_marks_and_layout_make_no_difference(tmp_path: Path) -> None:
    file = parse(SAMPLE)
    path = tmp_path / "spec.opt"
    for data in (
        SAMPLE.encode(),
        b"\xef\xbb\xbf" + SAMPLE.encode() + b"\n\n",
        SAMPLE.replace("\n", "\r\n").encode(),
        SAMPLE.replace("    ", "\t").replace("\tLast", "    Last").encode(),
    ):
        path.write_bytes(data)
        source, problems = read_source(path)
        assert source is not None and not problems
        assert parse_source(source) == (file, ())
    assert parse(SAMPLE.replace("\n", "\r\n")) == file


def test_quotes_and_template_marks_in_strings_are_just_text() -> None:
    doc = 'say "x" {{ y }} {% z %} \\n \' # {0} $HOME'
    assert parse(f'"""{doc}"""\ndef f(x) = x\n').doc == ast.Text(doc)


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    binary = tmp_path / "binary.opt"
    binary.write_bytes(bytes(range(256)) * 100)
    for path in (binary, tmp_path, tmp_path / "missing.opt", "nul\0name.opt", tmp_path / ("x" * 5000)):
        source, problems = read_source(path)
        assert source is None and [problem.code for problem in problems] == ["E001"]
        assert render_text(problems)


def test_huge_files_are_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "huge.opt"
    path.write_bytes("é".encode() * 4 * MAX_SIZE)
    source, problems = read_source(path)
    assert source is None and [problem.code for problem in problems] == ["E007"]


HOSTILE = {
    "parentheses": "def f(x) = " + "(" * 20_000 + "x" + ")" * 20_000,
    "open parentheses": "def f(x) = " + "(" * 20_000,
    "closing parentheses": "def f(x) = x" + ")" * 20_000,
    "minus signs": "def f(x) = " + "-" * 20_000 + "x",
    "not": "def f(x) = " + "not " * 20_000 + "x",
    "transposes": "def f(x) = x" + "'" * 20_000,
    "powers": "def f(x) = x" + "^x" * 20_000,
    "sum": "def f(x) = x" + " + x" * 20_000,
    "choices": "def f(x) = x" + " if x else x" * 9_000,
    "pipes": "def f(x) = x" + " |> g" * 20_000,
    "calls": "def f(x) = " + "f(" * 20_000 + "x" + ")" * 20_000,
    "tuples": "def f(x) = " + "(x, " * 20_000 + "x" + ")" * 20_000,
    "comparisons": "def f(x) = x" + " < x" * 20_000,
    "arguments": "def f(x) = g(" + "x, " * 20_000 + "x)",
    "deep indentation": "".join(" " * depth + "for x:\n" for depth in range(600)),
    "many lines": "schedule S:\n" + " a=1\n" * 20_000,
    "many bad lines": "schedule S:\n" + " a=\n" * 20_000,
    "quotes": '"' * 50_001,
    "open string": 'def f(x) = "' + "x" * 100_000,
    "open docstring": '"""' + "x\n" * 50_000,
    "nul": "\0" * 100_000,
    "symbols": "$%&?!" * 20_000,
    "letters": "é" * 100_000,
    "digits": "def f(x) = " + "9" * 100_000,
    "name": "def f(x) = " + "x" * 100_000,
    "line breaks": "\n" * 100_000,
    "carriage returns": "\r" * 100_000,
    "comments": "#\n" * 50_000,
    "tabs": "optimizer A:\n" + "\t \t" * 30_000 + "x",
    "surrogates": "def \ud800(x) = x",
    "too large": "x" * (MAX_SIZE + 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_gives_diagnostics_in_time(kind: str) -> None:
    start = time.process_time()
    tree, diagnostics = parse_source(Source("test.opt", HOSTILE[kind]))
    shown = render_text(diagnostics)
    assert time.process_time() - start < 5
    assert len(diagnostics) <= MAX_ERRORS
    assert (tree is None) == bool(diagnostics)
    assert len(shown) < 30_000 and all(char.isprintable() or char == "\n" for char in shown)


def test_depth_counts_levels_of_the_tree() -> None:
    assert codes("def f(x) = " + "-" * (MAX_DEPTH - 1) + "x") == []
    assert codes("def f(x) = " + "-" * MAX_DEPTH + "x") == ["E007"]
    assert codes("def f(x) = x" + " + x" * MAX_DEPTH) == ["E007"]
    assert codes("def f(x) = " + "g(" * (MAX_DEPTH - 1) + "x" + ")" * (MAX_DEPTH - 1)) == []
    assert codes("def f(x) = " + "(" * 20_000 + "x" + ")" * 20_000) == []


def test_every_broken_line_is_reported_where_it_is() -> None:
    lines = SAMPLE.splitlines()
    for index, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith(("#", "Last", '"""')) or line.strip() == ")":
            continue
        broken = [*lines[:index], line + " $", *lines[index + 1 :]]
        _, found = parse_source(Source("test.opt", "\n".join(broken)))
        places = [(d.code, d.span.source.locate(d.span.start)[0]) for d in found]
        assert places == [("E002", index + 1)] or line.strip().endswith("one"), (line, render_text(found))


def test_all_mistakes_of_a_file_come_together() -> None:
    text = "optimizer A:\n  hyper a = \n  hyper = 3\n  for x:\n    b = * 3\n    c = 3\nschedule S:\n  d = \n"
    _, found = parse_source(Source("test.opt", text))
    assert [d.span.source.locate(d.span.start)[0] for d in found] == [2, 3, 5, 8]


def test_mistakes_of_the_tree_come_with_those_of_the_text_and_once() -> None:
    """Lark reads what stands before a refused token twice; what is left out with its line is not spoken of."""
    text = "schedule S:\n  a = f(x=1, 2)\n  b = 1 2\n  c = g(x=1, 2) 3\n  d = f(x=1, 2)\n  e = h(3,,)\n"
    _, found = parse_source(Source("test.opt", text))
    places = [(d.code, d.span.source.locate(d.span.start)[0]) for d in found]
    assert places == [("E009", 2), ("E004", 3), ("E004", 4), ("E009", 5), ("E004", 6)]


def test_the_first_mistakes_of_a_file_are_the_ones_reported() -> None:
    for line in ("  a = f(x=1, 2)\n", "  a = \n"):
        _, found = parse_source(Source("test.opt", "schedule S:\n" + line * 2 * MAX_ERRORS))
        lines = [d.span.source.locate(d.span.start)[0] for d in found]
        assert lines == list(range(2, MAX_ERRORS + 2))


def test_of_a_foreign_word_the_letter_is_shown_that_does_not_belong_there() -> None:
    for word in ("café", "Müller2", "x_β", "2é"):
        _, (found,) = parse_source(Source("test.opt", f"def f(x) = {word} + 1"))
        assert found.code == "E002" and found.span.text == next(char for char in word if not char.isascii())


def survives(text: str) -> tuple[Diagnostic, ...]:
    tree, diagnostics = parse_source(Source("test.opt", text))
    assert (tree is None) == bool(diagnostics)
    for diagnostic in diagnostics:
        assert 0 <= diagnostic.span.start <= diagnostic.span.end <= len(text)
    assert len({(d.code, d.span.start) for d in diagnostics}) == len(diagnostics), render_text(diagnostics)
    assert render_text(diagnostics) or tree
    return diagnostics


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(st.sampled_from(SAMPLE), max_size=200))
def test_any_text_is_either_parsed_or_refused(text: str) -> None:
    survives(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_damaged_specs_are_refused_without_a_flood(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [token for token in scan(SAMPLE) if token.type != "_NL"]
    one = rng.choice(pieces)
    other = rng.choice([")", "(", "$", ":", "x", "if", "<-", '"', "\n", "for", "  "])
    instead = rng.choice(["", other, f"{one} {other}"])
    assert len(survives(SAMPLE[: start_of(one)] + instead + SAMPLE[end_of(one) :])) <= 4


def test_the_shipped_prelude_parses() -> None:
    source, _ = read_source(DSL / "prelude.opt")
    assert source is not None
    file = parse(source.text)
    assert {item.name.name for item in file.items} >= {"ema", "debias", "momentum", "rownorm", "project", "cautious"}


def test_every_rule_of_the_grammar_has_its_builder() -> None:
    lark = grammar.load_grammar()
    rules = [rule for rule in lark.rules if not rule.origin.name.startswith("_")]
    made = {rule.alias or rule.origin.name for rule in rules if rule.alias or not rule.options.expand1}
    assert all(callable(getattr(TreeBuilder, make, None)) for make in made)
    assert made >= EXPRESSIONS


def test_no_character_is_beyond_the_lexer() -> None:
    for text in (SAMPLE, 'def caf\u00e9(x) = "open\n\t# note\r\f$ %% \\ ~x', "".join(map(chr, range(0x300)))):
        end = 0
        for token in scan(text):
            assert text[end : start_of(token)].strip(" \t") == "" and token == text[start_of(token) : end_of(token)]
            end = end_of(token)
        assert text[end:].strip(" \t") == ""


# The tables that Lark keeps

TREE = parse(SAMPLE)
DAMAGES = {
    "missing": lambda kept: None,
    "empty": lambda kept: b"",
    "garbage": lambda kept: b"\xdc\x80" * 100,
    "cut": lambda kept: kept[: len(kept) // 2],
    "of another grammar": lambda kept: b"0" * 64 + kept[64:],
}


def load_anew() -> ast.File:
    grammar.load_grammar.cache_clear()
    return parse(SAMPLE)


@pytest.fixture
def kept_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = Path(cache_from_source(grammar.__file__)).parent
    folder.mkdir(parents=True)
    load_anew()
    (kept,) = folder.iterdir()
    return kept


@pytest.mark.parametrize("damage", DAMAGES)
def test_tables_that_do_not_fit_are_found_anew(damage: str, kept_tables: Path) -> None:
    right = kept_tables.read_bytes()
    wrong = DAMAGES[damage](right)
    kept_tables.unlink() if wrong is None else kept_tables.write_bytes(wrong)
    assert load_anew() == TREE
    assert kept_tables.read_bytes() not in (wrong, b"")


def test_tables_that_fit_are_used(kept_tables: Path) -> None:
    time_of_writing = kept_tables.stat().st_mtime_ns
    assert load_anew() == TREE
    assert kept_tables.stat().st_mtime_ns == time_of_writing


def test_no_tables_are_kept_where_python_keeps_nothing(kept_tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_tables.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert load_anew() == TREE
    kept_tables.parent.rmdir()  # ... nor where there is no folder for it:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert load_anew() == TREE
    assert not kept_tables.parent.exists()


def test_parsing_does_not_need_torch() -> None:
    code = (
        "import sys; from optforge.dsl.parser import parse_source; from optforge.dsl.source import Source; "
        "print(parse_source(Source('a', 'def f(x) = x'))[0] is not None, {'torch', 'numpy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "True set()\n"
