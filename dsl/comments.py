"""Where comments belong: a parsed file in, for each of its statements the comments around it out.

The parser keeps comments apart from the tree, by position. Here each finds the statement or the block
that it stays with when the file is laid out anew. Nothing is printed here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from optforge.dsl import ast
from optforge.dsl.grammar import scan, start_of
from optforge.dsl.source import NOWHERE, Span

# What takes a line of its own, or opens a block. A function's result stands for its `return` line.
Element: TypeAlias = ast.Item | ast.OptimizerMember | ast.Statement | ast.Text | ast.Expression


@dataclass(frozen=True, slots=True)
class Line:
    """A comment with a line of its own, and whether an empty line stands above it."""

    text: str
    blank_before: bool = False


@dataclass(slots=True)
class Surroundings:
    """What stands around an element: ``closing`` are the comments at the end of the block it opens."""

    leading: list[Line] = field(default_factory=list)
    blank_before: bool = False
    trailing: str = ""
    closing: list[Line] = field(default_factory=list)


def parts_of(element: ast.File | Element) -> tuple[Element, ...]:
    """What the block that an element opens consists of; nothing if it opens none."""
    match element:
        case ast.File(doc=doc, items=items):
            return _with_doc(doc, items)
        case ast.Optimizer(doc=doc, members=members) | ast.Wrapper(doc=doc, members=members):
            return _with_doc(doc, members)
        case ast.Schedule(doc=doc, members=lines):
            return _with_doc(doc, lines)
        case ast.Penalty(doc=doc, members=rules):
            return _with_doc(doc, rules)
        case ast.Rule(doc=doc, statements=statements) | ast.Event(doc=doc, statements=statements):
            return _with_doc(doc, statements)
        case ast.Function(doc=doc, body=body, result=result, is_block=True):
            return _with_doc(doc, (*body, result))
        case _:
            return ()


def _with_doc(doc: ast.Text | None, parts: tuple[Element, ...]) -> tuple[Element, ...]:
    return parts if doc is None else (doc, *parts)


def attach_comments(file: ast.File) -> tuple[dict[int, Surroundings], list[Line]]:
    """The surroundings of every element by its ``id``, and the comments at the end of the file."""
    if file.span is NOWHERE:
        return {}, []
    attacher = _Attacher(file)
    attacher.attach_parts(file, 0, len(file.span.source.text) + 1)
    return attacher.found, attacher.closing


class _Attacher:
    """Walks elements and comments in step, both in source order."""

    def __init__(self, file: ast.File) -> None:
        self.source = file.span.source
        self.comments = deque(sorted(file.comments, key=lambda comment: comment.span.start))
        self.found: dict[int, Surroundings] = {}
        self.closing: list[Line] = []
        self.last_line = 0

    def attach_parts(self, owner: ast.File | Element, start: int, bound: int) -> None:
        """Surround the parts of a block that lies between two places; comments left over at its end are closing."""
        parts = parts_of(owner)
        starts = [self.start_of(part, owner) for part in parts]
        for part, begin, after in zip(parts, starts, [*starts[1:], bound], strict=True):
            returned = isinstance(owner, ast.Function) and part is owner.result
            # What stands in brackets after `return` ends before them, the line behind them.
            self.attach(part, begin, owner.span.end if returned else header_end(part), after)
        column = self.source.locate(starts[0])[1] if starts and not isinstance(owner, ast.File) else 1
        self.closing = []
        while self.next_before(bound) and self.source.locate(self.comments[0].span.start)[1] >= column:
            self.closing.append(self.take_line())

    def start_of(self, part: Element, owner: ast.File | Element) -> int:
        """Where the line of an element starts; the word ``return`` is the one thing no node knows."""
        if isinstance(owner, ast.Function) and part is owner.result:
            before = owner.body[-1].span.end if owner.body else owner.doc.span.end if owner.doc else header_end(owner)
            return before + next(start_of(token) for token in scan(self.source.text[before:]) if token.type == "RETURN")
        return part.span.start

    def attach(self, element: Element, start: int, end: int, bound: int) -> None:
        """Surround an element whose first line (or whose lines, if it opens no block) lie between two places."""
        around = self.found[id(element)] = Surroundings()
        while self.next_before(start):
            around.leading.append(self.take_line())
        around.blank_before = self.line_of(start) - self.last_line > 1
        parts = parts_of(element)
        inner = self.take_inner(end, self.start_of(parts[0], element) if parts else bound)
        if inner and inner[-1].span.start >= end and not inner[-1].own_line:
            around.trailing = inner.pop().text
        for comment in inner:
            around.leading.append(Line(comment.text, around.blank_before))
            around.blank_before = False
        self.last_line = self.line_of(end)
        if parts:
            self.attach_parts(element, start, bound)
            around.closing, self.closing = self.closing, []

    def take_inner(self, end: int, bound: int) -> list[ast.Comment]:
        """Comments inside a statement (or a header), and those behind it on its lines."""
        taken = []
        while self.next_before(end) or (self.next_before(bound) and not self.comments[0].own_line):
            taken.append(self.comments.popleft())
        return taken

    def next_before(self, bound: int) -> bool:
        return bool(self.comments) and self.comments[0].span.start < bound

    def take_line(self) -> Line:
        comment = self.comments.popleft()
        line = self.line_of(comment.span.start)
        blank = line - self.last_line > 1
        self.last_line = line
        return Line(comment.text, blank)

    def line_of(self, offset: int) -> int:
        return self.source.locate(offset)[0]


def header_end(element: Element) -> int:
    """The end of an element, or of the last thing in its first line if it opens a block."""
    if not parts_of(element):
        return element.span.end
    match element:
        case ast.Optimizer(name=name, base=base, composition=composition):
            return (composition or base or name).span.end
        case ast.Rule(roles=roles):
            return roles[-1].span.end
        case ast.Event(name=name, parameters=parameters) | ast.Function(name=name, parameters=parameters):
            last: Span = parameters[-1].span if parameters else name.span
            return last.end
        case ast.Wrapper(name=name) | ast.Schedule(name=name) | ast.Penalty(name=name):
            return name.span.end
        case _:
            return element.span.end
