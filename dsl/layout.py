"""Line structure: lexemes in, the same with line ends, indents and dedents as lexemes of their own out.

Blank lines, comments and line breaks inside brackets disappear; comments are kept on the side.
Lark's own ``Indenter`` raises at the first thing it dislikes; this one reports and goes on, and can be told
to forget brackets that were never closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from optforge.dsl import errors
from optforge.dsl.ast import Comment
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.lexer import Lexeme
from optforge.dsl.source import Source, Span

Report = Callable[[Diagnostic], None]


class Layout:
    """The line structure of one source; ``brackets`` holds the opening ones not yet closed."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.comments: list[Comment] = []
        self.brackets: list[Lexeme] = []
        self.line_start = True
        self._indents = [""]
        self._end = 0

    def arrange(self, lexemes: Iterable[Lexeme]) -> Iterator[Lexeme]:
        """The lexemes with ``_NL``, ``_INDENT`` and ``_DEDENT`` where they belong, and one end mark."""
        open_line = False
        for lexeme in lexemes:
            if lexeme.kind == "COMMENT":
                self._collect_comment(lexeme)
                continue
            if lexeme.kind == "_NL":
                self.line_start = True
                if open_line and not self.brackets:
                    yield self._mark("_NL")
                    open_line = False
                continue
            if not open_line:
                yield from self._indent_to(lexeme)
                open_line = True
            self._track_bracket(lexeme)
            self._end = lexeme.end
            yield lexeme
            self.line_start = False
        if open_line:
            yield self._mark("_NL")
        while len(self._indents) > 1:
            self._indents.pop()
            yield self._mark("_DEDENT")
        yield self._mark("$END")

    def _mark(self, kind: str) -> Lexeme:
        """A lexeme without text, right behind the last one that has some."""
        return Lexeme(kind, "", self._end, self._end)

    def _collect_comment(self, lexeme: Lexeme) -> None:
        span = Span(self.source, lexeme.start, lexeme.end)
        self.comments.append(Comment(lexeme.text.rstrip(), self.line_start, span=span))

    def _track_bracket(self, lexeme: Lexeme) -> None:
        if lexeme.kind == "LPAR":
            self.brackets.append(lexeme)
        elif lexeme.kind == "RPAR" and self.brackets:
            self.brackets.pop()

    def _indent_to(self, lexeme: Lexeme) -> Iterator[Lexeme]:
        """The marks between the line before and the line that begins with this lexeme."""
        line_start = self.source.line_starts[self.source.locate(lexeme.start)[0] - 1]
        indent, current = self.source.text[line_start : lexeme.start], self._indents[-1]
        if indent == current:
            return
        if indent.startswith(current):
            self._indents.append(indent)
            yield self._mark("_INDENT")
            return
        while not indent.startswith(self._indents[-1]):
            self._indents.pop()
            yield self._mark("_DEDENT")
        if indent != self._indents[-1]:
            self.report(errors.bad_indentation(Span(self.source, line_start, lexeme.start)))
