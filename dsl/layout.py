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

# No expression contains these, so that a line beginning with one of them is a new one whatever is open.
LINE_STARTERS = frozenset({"OPTIMIZER", "SCHEDULE", "PENALTY", "DEF", "HYPER", "FOR", "ON", "CLAIM", "RETURN"})


class Layout:
    """The line structure of one source.

    While a lexeme is being looked at, ``brackets`` holds the opening ones not yet closed and ``line_start`` says
    whether it is the first on its line; ``misplaced`` are the first ones of lines whose indentation fits nothing.
    """

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.comments: list[Comment] = []
        self.brackets: list[Lexeme] = []
        self.line_start = True
        self.misplaced: set[int] = set()
        self._returned: list[Lexeme] = []
        self._indents: list[str] = []
        self._meant: dict[str, str] = {}
        self._end = 0

    def arrange(self, lexemes: Iterable[Lexeme]) -> Iterator[Lexeme]:
        """The lexemes with ``_NL``, ``_INDENT`` and ``_DEDENT`` where they belong, and one end mark."""
        open_line = False
        for lexeme in self._with_returned(lexemes):
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
            lexeme = self._track_bracket(lexeme)
            self._end = lexeme.end
            yield lexeme
            self.line_start = False
        if open_line:
            yield self._mark("_NL")
        while len(self._indents) > 1:
            yield self._close_block()
        yield self._mark("$END")

    def begins_line(self, lexeme: Lexeme) -> bool:
        """Whether this lexeme inside brackets looks as if they were forgotten."""
        if not (self.brackets and self.line_start and lexeme.text):
            return False
        # Forgotten, if it is indented no deeper than the line that they stand in.
        indent = self._indentation(lexeme)
        return lexeme.kind in LINE_STARTERS or (lexeme.kind != "RPAR" and len(indent) <= len(self._indents[-1]))

    def reopen(self, end: int, *lexemes: Lexeme) -> None:
        """Forget all brackets: the line has ended at ``end``, and these last lexemes start another one."""
        self.brackets.clear()
        self._end = end
        self._returned = [Lexeme("_NL", "", end, end), *lexemes]

    def _with_returned(self, lexemes: Iterable[Lexeme]) -> Iterator[Lexeme]:
        for lexeme in lexemes:
            yield lexeme
            while self._returned:
                yield self._returned.pop(0)

    def _mark(self, kind: str) -> Lexeme:
        """A lexeme without text, right behind the last one that has some."""
        return Lexeme(kind, "", self._end, self._end)

    def _collect_comment(self, lexeme: Lexeme) -> None:
        span = Span(self.source, lexeme.start, lexeme.end)
        self.comments.append(Comment(lexeme.text.rstrip(), self.line_start, span=span))

    def _track_bracket(self, lexeme: Lexeme) -> Lexeme:
        if lexeme.kind == "LPAR":
            self.brackets.append(lexeme)
        elif lexeme.kind == "RPAR":
            if not self.brackets:
                return lexeme._replace(kind="_STRAY")
            self.brackets.pop()
        return lexeme

    def _indentation(self, lexeme: Lexeme) -> str:
        line_start = self.source.line_starts[self.source.locate(lexeme.start)[0] - 1]
        return self.source.text[line_start : lexeme.start]

    def _indent_to(self, lexeme: Lexeme) -> Iterator[Lexeme]:
        """The marks between the line before and the line that begins with this lexeme."""
        written = self._indentation(lexeme)
        if not self._indents:
            self._indents.append(written)  # A text may be indented as a whole.
        indent, current = self._meant.get(written, written), self._indents[-1]
        if not (indent.startswith(current) or current.startswith(indent)):
            indent = self._repair(written, lexeme, written.expandtabs(8))
        if len(indent) > len(current) and indent.startswith(current):
            self._indents.append(indent)
            yield Lexeme("_INDENT", "", lexeme.start - len(written), lexeme.start)
        while len(self._indents) > 1 and len(indent) <= len(self._indents[-2]):
            yield self._close_block()
        if indent != self._indents[-1]:
            # Deeper than the block around the innermost one, so it is taken for a line of the latter.
            self._repair(written, lexeme, self._indents[-1])

    def _repair(self, written: str, lexeme: Lexeme, meant: str) -> str:
        """Report an indentation that fits nothing, once, and remember what it is taken for in this block."""
        self.misplaced.add(lexeme.start)
        if written not in self._meant:
            self._meant[written] = meant
            mixed = "\t" in written + self._indents[-1] and " " in written + self._indents[-1]
            hint = "indent with spaces only; `optforge fmt` uses four" if mixed else None
            self.report(errors.bad_indentation(Span(self.source, lexeme.start - len(written), lexeme.start), help=hint))
        return self._meant[written]

    def _close_block(self) -> Lexeme:
        closed = self._indents.pop()
        self._meant = {written: meant for written, meant in self._meant.items() if meant != closed}
        return self._mark("_DEDENT")
