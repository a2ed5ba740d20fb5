"""A rule calls the function that owners of whole matrices have, where its lines are the same and can be called."""

from __future__ import annotations

import re

import pytest

from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.sharding.calls import call_owners

WHOLE = ("if rows <= cols:", "    a = m @ m.mT", "    b = a @ m", "else:", "    b = m + rows")


def function(name: str, body: tuple[str, ...], returns: str, inputs: tuple[str, ...] = ("m",)) -> PyFunction:
    signature = (f"def {name}({', '.join(inputs)}, *, rows, cols):",)
    return PyFunction(name, signature, (), body, (returns,), inputs, ("rows", "cols"), (), frozenset(), {})


def rule(
    before: tuple[str, ...] = (), after: tuple[str, ...] = ("c = 2 * b",), returns: str = "return (c,)"
) -> PyFunction:
    return function("matrix_rule", (*before, *WHOLE, *after), returns, ("weight", "m"))


def test_equal_lines_become_a_call() -> None:
    whole = function("matrix_whole", WHOLE, "return (b,)")
    called = call_owners(rule(before=("m = m / 2",)), [whole])
    assert called.body == ("m = m / 2", "(b,) = matrix_whole(m, rows=rows, cols=cols)", "c = 2 * b")


def test_several_results_come_in_the_order_of_the_function_and_long_calls_over_lines() -> None:
    long = "m" * 60
    body = tuple(re.sub(r"\bm\b", long, line) for line in WHOLE)
    rule = function("matrix_rule", (*body, "c = a - b"), "return (c,)", ("weight", long))
    called = call_owners(rule, [function("matrix_whole", body, "return b, a", (long,))])
    expected = ("b, a = matrix_whole(", f"    {long},", "    rows=rows,", "    cols=cols,", ")", "c = a - b")
    assert called.body == expected


@pytest.mark.parametrize(
    ("rule", "whole"),
    [
        (rule(after=("c = a + b",)), function("matrix_whole", WHOLE, "return (b,)")),
        (rule(returns="return a, b"), function("matrix_whole", WHOLE, "return (b,)")),
        (rule(after=("    a = b",)), function("matrix_whole", WHOLE, "return (b,)")),
        (rule(), function("matrix_whole", WHOLE, "return b, 2 * a")),
        (rule(), function("matrix_whole", (*WHOLE[:-1], "    b = m + cols"), "return (b,)")),
        (rule(before=("matrix_whole = m",)), function("matrix_whole", WHOLE, "return (b,)")),
        (rule(), function("weight", WHOLE, "return (b,)")),
        (function("matrix_rule", ("b = 2 * m", "c = b"), "return (c,)"), function("w", ("b = 2 * m",), "return (b,)")),
    ],
    ids=["more is read", "more is given", "goes on", "no name", "other lines", "name set", "name given", "short"],
)
def test_what_could_not_be_called_stays(rule: PyFunction, whole: PyFunction) -> None:
    assert call_owners(rule, [whole]) is rule
