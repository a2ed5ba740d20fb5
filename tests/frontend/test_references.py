"""What each name of a text means: the definition that it was found at, whatever else bears the same name.

In these texts `<1>` stands before a definition and `[1]` before a use that means it; `[1,2]` means both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from optforge.compiler.driver import Snapshot, Workspace, check_source
from optforge.compiler.frontend.scopes import PRELUDE
from optforge.dsl.source import Source

MARK = re.compile(r"<(\d+)>|\[([\d,]+)\]")


def read_marks(text: str) -> tuple[str, dict[str, int], dict[int, list[str]]]:
    """The text without its marks, where each definition begins, and what each use means."""
    definitions: dict[str, int] = {}
    uses: dict[int, list[str]] = {}
    plain = ""
    end = 0
    for mark in MARK.finditer(text):
        plain += text[end : mark.start()]
        end = mark.end()
        if mark[1]:
            definitions[mark[1]] = len(plain)
        else:
            uses[len(plain)] = mark[2].split(",")
    return plain + text[end:], definitions, uses


def meanings(snapshot: Snapshot) -> Mapping[int, list[tuple[str, str, int]]]:
    """For the start of each use the kinds, texts and places of what it means."""
    return {
        use.start: [(each.kind, each.span.text, each.span.start) for each in found]
        for use, found in snapshot.references.found.items()
    }


CASES = {
    "hyper": (
        "hyper",
        """
        optimizer X:
            hyper <1>lr = 0.1 where [1]lr > 0
            hyper <2>floor = 0.0 where 0 <= [2]floor < [1]lr
            for tensor:
                weight <- weight - [1]lr * max(grad, [2]floor)
                claim norm(weight) <= 1 / [1]lr
        """,
    ),
    "equation": (
        "equation",
        """
        optimizer X:
            for matrix:
                <1>m = ema(grad, 0.9)
                weight <- weight - 0.1 * [2]u
                <2>u = [1]m / norm([1]m) + prev([1]m)
                claim norm([2]u) <= 2
            for rest:
                <3>m = ema(grad, 0.5)
                weight <- weight - 0.1 * [3]m
        """,
    ),
    "equation of an event": (
        "equation",
        """
        optimizer X:
            for matrix:
                <1>m = ema(grad, 0.9)
                weight <- weight - 0.1 * [1]m / max(1, [3]h)
            for vector:
                <2>m = ema(grad, 0.5)
                weight <- weight - 0.1 * [2]m / max(1, [3]h)
            on look():
                <3>h = prev([3]h) + norm([1,2]m)
        """,
    ),
    "replaced equation": (
        "equation",
        """
        optimizer Plain:
            for tensor:
                <1>m = ema(grad, 0.9)
                <2>d = [1]m + grad
                weight <- weight - 0.1 * [2]d

        optimizer X extends Plain:
            for tensor:
                [2]d = [2]super / 2
        """,
    ),
    "what a state was": (
        "equation",
        """
        optimizer X:
            for tensor:
                <1>m = ema(grad, 0.9)
                [1]m was exp_avg
                weight <- weight - 0.1 * [1]m
        """,
    ),
    "replaced hyper": (
        "hyper",
        """
        optimizer Plain:
            hyper <1>lr = 0.1 where [1]lr > 0
            for tensor:
                weight <- weight - [1]lr * grad

        optimizer X extends Plain:
            hyper [1]<2>lr = 0.2 where [2]lr > 0
            for tensor:
                d = sign(grad)
                weight <- weight - [2]lr * d
        """,
    ),
    "hyper in use": (
        "hyper",
        """
        optimizer Plain:
            hyper <1>lr = 0.1 where [1]lr > 0
            for tensor:
                weight <- weight - [1]lr * grad

        optimizer X:
            hyper <2>lr = 0.1 where [2]lr > 0
            for matrix:
                weight <- weight - [2]lr * grad
            for rest: use Plain([1]lr=[2]lr / 2)
        """,
    ),
    "parameter": (
        "parameter",
        """
        def twice(<1>x, <2>by=2) = [1]x * [2]by

        optimizer X:
            for tensor:
                weight <- weight - twice(grad, [2]by=0.1)
        """,
    ),
    "local in a function": (
        "local",
        """
        def smooth(x):
            <1>s = 0.9 * prev([1]s) + 0.1 * x
            <2>t2 = [1]s + x
            return [2]t2 * [1]s

        optimizer X:
            for tensor:
                s = smooth(grad)
                weight <- weight - 0.1 * s
        """,
    ),
    "function": (
        "function",
        """
        def <1>half(x) = x / 2

        def <2>quarter(x) = [1]half([1]half(x))

        optimizer X:
            for tensor:
                g = grad |> [2]quarter
                weight <- weight - [1]half(g)
        """,
    ),
    "event argument": (
        "argument",
        """
        optimizer X:
            for tensor:
                s = prev(s)
                weight <- weight - 0.1 * grad
            on climb(<1>rho, <2>scale=2):
                d = [1]rho * grad * [2]scale
                weight <- weight + d
        """,
    ),
    "optimizer in use": (
        "optimizer",
        """
        optimizer <1>Plain:
            hyper lr = 0.1 where lr > 0
            for tensor:
                weight <- weight - lr * grad

        optimizer X:
            for matrix:
                weight <- weight - 0.1 * grad
            for rest: use [1]Plain(lr=0.2)
        """,
    ),
    "counter": (
        "local",
        """
        optimizer X:
            for tensor:
                k = grad |> clamp(-[1]j, 2 * [1]j) for <1>j in 1..3
                weight <- weight - (k |> min([2]j) for <2>j in 1..3)
        """,
    ),
    "optimizer in extends": (
        "optimizer",
        """
        optimizer X extends [1]Plain:
            hyper lr = 0.2 where lr > 0

        optimizer <1>Plain:
            hyper lr = 0.1 where lr > 0
            for tensor:
                weight <- weight - lr * grad
        """,
    ),
    "role": (
        "rule",
        """
        optimizer Plain:
            for <1>matrix:
                weight <- weight - 0.1 * grad
            for <2>embedding, head:
                weight <- weight - 0.2 * grad

        optimizer X extends Plain:
            for [1]matrix:
                m = ema(grad, 0.9)
                weight <- weight - m
        """,
    ),
    "event": (
        "event",
        """
        optimizer Plain:
            for tensor:
                h = prev(h)
                weight <- weight - 0.1 * grad / max(h, 1)
            on <1>look():
                h = grad^2

        optimizer X extends Plain:
            on [1]look():
                h = abs(grad)
        """,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_names_mean_their_definitions(case: str) -> None:
    """Uses of the kind that the case is about are those with marks, and no others."""
    kind, marked = CASES[case]
    text, definitions, uses = read_marks(marked)
    snapshot = check_source(Source("x.opt", text))
    assert not snapshot.errors
    found = meanings(snapshot)
    wanted = {use: sorted(definitions[mark] for mark in marks) for use, marks in uses.items()}
    told = {use: sorted(at for known, _, at in each if known == kind) for use, each in found.items()}
    assert {use: places for use, places in told.items() if places} == wanted


SHARED = '"""Shared."""\n\ndef half(x):\n    """A half of x."""\n    return x / 2\n'
BASE = "optimizer Base:\n    hyper lr = 0.1 where lr > 0\n    for tensor:\n        weight <- weight - lr * half(grad)\n"
OWN = "optimizer Own extends Base:\n    for tensor:\n        weight <- weight - lr * ema(half(grad), 0.9)\n"


def test_definitions_of_other_files_say_where_they_stand(tmp_path: Path) -> None:
    """The path of the file itself, the text of whoever wrote it, and nothing of what other files use."""
    for name, text in (("shared", SHARED), ("base", BASE), ("own", OWN)):
        (tmp_path / f"{name}.opt").write_text(text, encoding="utf-8")
    found = Workspace().snapshot(tmp_path / "own.opt").references.found
    told = {use.text: meant for use, each in found.items() for meant in each}
    assert {use.source.text for use in found} == {OWN}
    assert {name: (meant.kind, meant.path) for name, meant in told.items()} == {
        "Base": ("optimizer", tmp_path / "base.opt"),
        "tensor": ("rule", tmp_path / "base.opt"),
        "lr": ("hyper", tmp_path / "base.opt"),
        "half": ("function", tmp_path / "shared.opt"),
        "ema": ("function", PRELUDE),
    }
    assert told["half"].doc == "A half of x." and told["half"].span.text == "half"
    assert told["ema"].doc.startswith("Exponential moving average") and told["lr"].span.source.text == BASE


def test_a_name_is_found_at_all_of_its_characters() -> None:
    text = (
        "optimizer X:\n    hyper rate = 0.1 where rate > 0\n    for tensor:\n        weight <- weight - rate * grad\n"
    )
    references = check_source(Source("x.opt", text)).references
    use = text.rindex("rate")
    for offset in range(use, use + 5):
        ((span, meaning),) = references.at(offset)
        assert (span.start, meaning.span.start) == (use, text.index("rate"))
    assert not [*references.at(use - 2)]


def test_what_is_wrong_elsewhere_hides_no_meaning() -> None:
    text = "optimizer X:\n    for tensor:\n        m = ema(grad, 0.9)\n        weight <- weight - nothing * m\n"
    snapshot = check_source(Source("x.opt", text))
    assert [error.code for error in snapshot.errors] == ["E012"] and snapshot.program is None
    assert (text.rindex("m"), "equation") in {
        (use.start, m.kind) for use, e in snapshot.references.found.items() for m in e
    }
