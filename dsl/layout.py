"""Line structure: tokens in, the same with line ends, indents and dedents as tokens of their own out.

Blank lines, comments and line breaks inside brackets disappear; comments are kept on the side.
Lark's own ``Indenter`` raises at the first thing it dislikes; this one reports and goes on, and can be told
to forget brackets that were never closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lark import Token

from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.grammar import end_of, make_token, start_of
from optforge.dsl.source import Source, Span

Report = Callable[[Diagnostic], None]

# No expression contains these, so that a line beginning with one of them is a new one whatever is open.
LINE_STARTERS = frozenset(
    {"OPTIMIZER", "WRAPPER", "SCHEDULE", "PENALTY", "DEF", "HYPER", "FOR", "ON", "CLAIM", "DIM", "SHARED", "RETURN"}
)


class Layout:
    """The line structure of one source.

    While a token is being looked at, ``brackets`` holds the opening ones not yet closed and ``line_start`` says
    whether it is the first on its line; ``misplaced`` are the first ones of lines whose indentation fits nothing.
    """

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.comments: list[ast.Comment] = []
        self.brackets: list[Token] = []
        self.line_start = True
        self.misplaced: set[int] = set()
        self._returned: list[Token] = []
        self._indents: list[str] = []
        self._meant: dict[str, str] = {}
        self._end = 0

    def arrange(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """The tokens with ``_NL``, ``_INDENT`` and ``_DEDENT`` where they belong, and one end mark."""
        open_line = False
        for token in self._with_returned(tokens):
            if token.type == "COMMENT":
                self._collect_comment(token)
                continue
            if token.type == "_NL":
                self.line_start = True
                if open_line and not self.brackets:
                    yield self._mark("_NL")
                    open_line = False
                continue
            if not open_line:
                yield from self._indent_to(token)
                open_line = True
            token = self._track_bracket(token)
            self._end = end_of(token)
            yield token
            self.line_start = False
        if open_line:
            yield self._mark("_NL")
        while len(self._indents) > 1:
            yield self._close_block()
        yield self._mark("$END")

    def begins_line(self, token: Token) -> bool:
        """Whether this token inside brackets looks as if they were forgotten."""
        if not (self.brackets and self.line_start and token):
            return False
        # Forgotten, if it is indented no deeper than the line that they stand in.
        indent = self._indentation(token)
        return token.type in LINE_STARTERS or (token.type != "RPAR" and len(indent) <= len(self._indents[-1]))

    def reopen(self, end: int, *tokens: Token) -> None:
        """Forget all brackets: the line has ended at ``end``, and these last tokens start another one."""
        self.brackets.clear()
        self._end = end
        self._returned = [self._mark("_NL"), *tokens]

    def _with_returned(self, tokens: Iterable[Token]) -> Iterator[Token]:
        for token in tokens:
            yield token
            while self._returned:
                yield self._returned.pop(0)

    def _mark(self, kind: str) -> Token:
        """A token without text, right behind the last one that has some."""
        return make_token(kind, self._end, self._end)

    def _collect_comment(self, token: Token) -> None:
        span = Span(self.source, start_of(token), end_of(token))
        self.comments.append(ast.Comment(token.rstrip(), self.line_start, span=span))

    def _track_bracket(self, token: Token) -> Token:
        if token.type == "LPAR":
            self.brackets.append(token)
        elif token.type == "RPAR":
            if not self.brackets:
                return token.update("_STRAY")
            self.brackets.pop()
        return token

    def _indentation(self, token: Token) -> str:
        start = start_of(token)
        _, column = self.source.locate(start)
        return self.source.text[start - column + 1 : start]

    def _indent_to(self, token: Token) -> Iterator[Token]:
        """The marks between the line before and the line that begins with this token."""
        start, written = start_of(token), self._indentation(token)
        if not self._indents:
            self._indents.append(written)  # A text may be indented as a whole.
        indent, current = self._meant.get(written, written), self._indents[-1]
        if not (indent.startswith(current) or current.startswith(indent)):
            indent = self._repair(written, start, written.expandtabs(8))
        if len(indent) > len(current) and indent.startswith(current):
            self._indents.append(indent)
            yield make_token("_INDENT", start - len(written), start)
        while len(self._indents) > 1 and len(indent) <= len(self._indents[-2]):
            yield self._close_block()
        if indent != self._indents[-1]:
            # Deeper than the block around the innermost one, so it is taken for a line of the latter.
            self._repair(written, start, self._indents[-1])

    def _repair(self, written: str, start: int, meant: str) -> str:
        """Report an indentation that fits nothing, once, and remember what it is taken for in this block."""
        self.misplaced.add(start)
        if written not in self._meant:
            self._meant[written] = meant
            mixed = "\t" in written + self._indents[-1] and " " in written + self._indents[-1]
            hint = "indent with spaces only; `optforge fmt` uses four" if mixed else None
            self.report(errors.bad_indentation(Span(self.source, start - len(written), start), help=hint))
        return self._meant[written]

    def _close_block(self) -> Token:
        closed = self._indents.pop()
        self._meant = {written: meant for written, meant in self._meant.items() if meant != closed}
        return self._mark("_DEDENT")
