"""Diagnostics: what is wrong, where, and how it is shown.

A diagnostic is data: it goes in, text with carets for people or JSON for editors comes out. The words live
in :mod:`optforge.dsl.errors`; nothing is decided here about what is wrong. Whatever a spec contains, the text
holds no control characters but line breaks (and colours, where asked for).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from optforge.dsl.source import Source, Span

TAB = "    "
WIDTH = 100
MESSAGE = 400


@dataclass(frozen=True, slots=True)
class Label:
    """A second place that takes part in the mistake, and what it has to do with it."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: the whole ``span`` is underlined, ``note`` stands beside the carets."""

    code: str
    severity: Literal["error", "warning"]
    message: str
    span: Span
    note: str = ""
    labels: tuple[Label, ...] = ()
    help: str | None = None


class SpecError(Exception):
    """Raised by the library functions (never by the command line) when a spec is wrong."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        self.diagnostics = diagnostics
        super().__init__(render_text(diagnostics))


def sort_by_position(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """In the order of files and of places in them."""
    return sorted(diagnostics, key=lambda d: (d.span.source.path, d.span.start, d.span.end, d.code))


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    """One JSON array; lines and columns count from 1, offsets from 0, and an end is where the span no longer is."""
    return json.dumps([_describe(diagnostic) for diagnostic in sort_by_position(diagnostics)], indent=2)


def _describe(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        **_describe_place(diagnostic.span),
        "note": diagnostic.note,
        "labels": [{"text": label.text, **_describe_place(label.span)} for label in diagnostic.labels],
        "help": diagnostic.help,
    }


def _describe_place(span: Span) -> dict[str, Any]:
    places = {}
    for key, offset in (("start", span.start), ("end", span.end)):
        line, column = span.source.locate(offset)
        places[key] = {"line": line, "column": column, "offset": offset}
    return {"path": span.source.path, **places}


# Text


@dataclass(frozen=True, slots=True)
class _Mark:
    """A part of one source line to be underlined, with the text beside the underline."""

    source: Source
    line: int
    start: int
    end: int
    sign: Literal["^", "-"]
    text: str


def render_text(diagnostics: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """The diagnostics as a person reads them, in source order, without a line break at the end."""
    paint = _paint if colour else _leave_plain
    return "\n\n".join("\n".join(_render_one(diagnostic, paint)) for diagnostic in sort_by_position(diagnostics))


def _render_one(diagnostic: Diagnostic, paint: _Painter) -> Iterator[str]:
    severity = diagnostic.severity
    yield paint(severity, f"{severity}[{diagnostic.code}]") + paint("title", f": {_shorten(diagnostic.message)}")
    marks = [_mark(diagnostic.span, "^", diagnostic.note)]
    marks += [_mark(label.span, "-", label.text) for label in diagnostic.labels]
    digits = max(4, *(len(str(mark.line)) for mark in marks))
    own, others = diagnostic.span.source, [mark for mark in marks if mark.source is not diagnostic.span.source]
    groups = [[mark for mark in marks if mark.source is own]]
    groups += [list(group) for _, group in groupby(sorted(others, key=_mark_order), key=lambda mark: mark.source.path)]
    for arrow, group in zip(["-->"] + [":::"] * len(groups), groups, strict=False):
        yield paint("frame", f"{arrow:>{digits + 1}} ") + _escape_unprintable(_place(group[0]))
        if group[0].source.text:
            yield from _render_lines(group, severity, digits, paint)
    if diagnostic.help is not None:
        yield paint("frame", f"{'=':>{digits}} ") + paint("title", "help: ") + _shorten(diagnostic.help)


def _mark(span: Span, sign: Literal["^", "-"], text: str) -> _Mark:
    """The mark for a span; of several lines only the first is underlined, and the text names the last."""
    line, column = span.source.locate(span.start)
    last, end = span.source.locate(max(span.start, span.end - 1))
    if last == line:
        return _Mark(span.source, line, column - 1, max(end, column), sign, text)
    full = len(span.source.line(line))
    return _Mark(span.source, line, column - 1, full, sign, f"{text} (to line {last})".lstrip())


def _mark_order(mark: _Mark) -> tuple[str, int, bool, int]:
    return mark.source.path, mark.line, mark.sign != "^", mark.start


def _place(mark: _Mark) -> str:
    return f"{mark.source.path}:{mark.line}:{mark.start + 1}" if mark.source.text else mark.source.path


def _render_lines(marks: list[_Mark], severity: str, digits: int, paint: _Painter) -> Iterator[str]:
    """The source lines of one file that carry marks, each followed by its underlines."""
    shown = None
    for number, group in groupby(sorted(marks, key=_mark_order), key=lambda mark: mark.line):
        on_line = list(group)
        if shown is not None and number > shown + 1:
            yield paint("frame", f"{'...':>{digits + 2}}")
        shown = number
        cells = [_escape_unprintable(char) for char in on_line[0].source.line(number)]
        fits = sum(map(_columns, cells)) <= WIDTH
        for part in [on_line] if fits else [[mark] for mark in on_line]:
            first, last = (0, len(cells)) if fits else _window(cells, part[0])
            before, after = "..." if first > 0 else "", "..." if last < len(cells) else ""
            text = before + "".join(cells[first:last]) + after
            yield paint("frame", f"{number:>{digits}} |") + f" {text}".rstrip()
            for mark in part:
                indent = _columns(before + "".join(cells[first : mark.start]))
                length = _columns("".join(cells[mark.start : min(mark.end, last)]))
                underline = mark.sign * max(length, 1) + (f" {_escape_unprintable(mark.text)}" if mark.text else "")
                style = severity if mark.sign == "^" else "label"
                yield paint("frame", f"{'|':>{digits + 2}}") + " " * (indent + 1) + paint(style, underline)


def _window(cells: list[str], mark: _Mark) -> tuple[int, int]:
    """The part of a long line to show: it begins a little before the mark."""
    first = max(0, min(mark.start - WIDTH // 4, len(cells) - WIDTH // 2))
    last, columns = first, 0
    while last < len(cells) and columns < WIDTH:
        columns += _columns(cells[last])
        last += 1
    return first, last


def _shorten(text: str) -> str:
    """A message as it is shown: what quotes a name of a thousand letters breaks off."""
    return _escape_unprintable(text if len(text) <= MESSAGE else f"{text[:MESSAGE]}...")


def _escape_unprintable(text: str) -> str:
    """The text with tabs as four spaces and everything that does not print as an escape like ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(TAB if char == "\t" else char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


# Colours

_STYLES = {
    "error": "1;31",
    "warning": "1;33",
    "title": "1",
    "frame": "34",
    "label": "1;34",
}

_Painter = Callable[[str, str], str]


def _paint(style: str, text: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _leave_plain(style: str, text: str) -> str:
    return text
