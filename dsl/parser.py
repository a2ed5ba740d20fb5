"""Text to tree: a source in, a surface tree or the reasons why there is none out.

Every refused line is reported and left out, and parsing goes on behind it, so that the errors of one
file come together. No name is looked up here; nothing is known of what a spec means.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optforge.dsl import ast, errors
from optforge.dsl.automaton import Automaton
from optforge.dsl.diagnostics import Diagnostic, by_position
from optforge.dsl.layout import Layout
from optforge.dsl.lexer import Lexeme, scan
from optforge.dsl.source import Source, Span
from optforge.dsl.tables import load_tables
from optforge.dsl.tree import TreeBuilder

if TYPE_CHECKING:
    from optforge.dsl.mistakes import Refusal

MAX_SIZE = 128 * 1024
MAX_ERRORS = 20
TOO_LONG = "this file has too many characters"


def read_source(path: str | Path) -> tuple[Source | None, tuple[Diagnostic, ...]]:
    """The text of a file, or why there is none. A byte order mark goes, and CRLF becomes LF."""
    shown = Path(path).as_posix()
    nowhere = Span(Source(shown, ""), 0, 0)
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_SIZE + 1)
        if len(data) > 4 * MAX_SIZE:
            return None, (errors.too_large(TOO_LONG, MAX_SIZE, nowhere),)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        return None, (errors.unreadable(shown, _describe_failure(error), nowhere),)
    return Source(shown, text.replace("\r\n", "\n")), ()


def _describe_failure(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "this is not a file name"


def parse_source(source: Source) -> tuple[ast.File | None, tuple[Diagnostic, ...]]:
    """The tree of a whole spec file; None if anything is wrong."""
    tree, comments, diagnostics = _Parse(source, "start").run()
    if not isinstance(tree, ast.File):
        return None, diagnostics
    return replace(tree, comments=comments), diagnostics


def parse_expression(source: Source) -> tuple[ast.Expression | None, tuple[Diagnostic, ...]]:
    """The tree of a single expression; None if anything is wrong."""
    tree, _, diagnostics = _Parse(source, "expression").run()
    return tree, diagnostics


@dataclass(slots=True)
class _Block:
    """An open block.

    ``before`` is the automaton before its first line, None if its indentation is reported and ignored;
    ``troubled`` whether any line in it was refused; ``continues`` whether its first line, not read yet,
    may have been meant to continue the line before it.
    """

    before: Automaton | None
    troubled: bool = False
    continues: bool = False


class _TooManyErrors(Exception):
    """There is no point in going on; what is known is reported."""


# What stands in for the first line of a block when that line is refused, so that the block itself can be read.
_HEADERS = {
    "OPTIMIZER": "OPTIMIZER NAME COLON _NL",
    "SCHEDULE": "SCHEDULE NAME COLON _NL",
    "PENALTY": "PENALTY NAME COLON _NL",
    "FOR": "FOR NAME COLON _NL",
    "ON": "ON NAME LPAR RPAR COLON _NL",
    "DEF": "DEF NAME LPAR RPAR COLON _NL",
}


class _Parse:
    """One parse with recovery.

    ``line`` is the automaton as it was before the current line, ``first`` the line's first lexeme.
    """

    def __init__(self, source: Source, start: str) -> None:
        self.source = source
        self.start = start
        self.diagnostics: list[Diagnostic] = []
        self.layout = Layout(source, self.report)
        self.lexemes = self.layout.arrange(scan(source.text))
        self.automaton = Automaton.begin(load_tables(), TreeBuilder(source, self.report), start)
        self.line = self.automaton.copy()
        self.first = Lexeme("_NL", "", 0, 0)
        self.between_lines = True
        self.refused_header: str | None = None
        self.reported_at = -1
        self.blocks: list[_Block] = []
        self.previous: Lexeme | None = None
        self.previous_first = False

    def run(self) -> tuple[Any, tuple[ast.Comment, ...], tuple[Diagnostic, ...]]:
        if len(self.source.text) > MAX_SIZE:
            whole = Span(self.source, 0, 0)
            return None, (), (errors.too_large(TOO_LONG, MAX_SIZE, whole),)
        with suppress(_TooManyErrors):
            self.read_all()
        tree = None if self.diagnostics else self.automaton.values[-1].content
        return tree, tuple(self.layout.comments), tuple(by_position(self.diagnostics))

    def read_all(self) -> None:
        for lexeme in self.lexemes:
            if lexeme.kind == "_DEDENT" and self.blocks[-1].before is None:
                self.blocks.pop()
                continue
            while not self.automaton.accepts(lexeme.kind):
                if not self.recover(lexeme):
                    break
            else:
                self.take(lexeme)

    def report(self, diagnostic: Diagnostic) -> None:
        self.diagnostics.append(diagnostic)
        if len(self.diagnostics) >= MAX_ERRORS:
            raise _TooManyErrors

    def take(self, lexeme: Lexeme) -> None:
        """Feed a lexeme that fits, and note where lines and blocks begin."""
        if lexeme.kind == "_INDENT":
            self.blocks.append(_Block(self.line))
        elif lexeme.kind == "_DEDENT":
            self.blocks.pop()
        elif self.between_lines:
            self.line, self.first = self.automaton.copy(), lexeme
        self.between_lines = lexeme.kind in ("_NL", "_INDENT", "_DEDENT")
        if self.between_lines and self.blocks:
            self.blocks[-1].continues = False
        self.refused_header = None
        self.automaton.feed(lexeme)
        if lexeme.text:
            self.previous, self.previous_first = lexeme, self.layout.line_start

    def recover(self, lexeme: Lexeme) -> bool:
        """Report a refused lexeme and get the automaton to where parsing can go on.

        True if the lexeme itself is still to be taken.
        """
        expected = self.automaton.expected()
        if lexeme.kind == "$END":
            self.finish(lexeme, expected)
            return False
        if lexeme.kind == "_INDENT":
            return self.enter_unexpected_block(lexeme, expected)
        if expected == {"_INDENT"}:
            self.report_refusal(lexeme, expected)
            self.return_to(self.line)
            return True
        if lexeme.kind == "_DEDENT":
            self.leave_block(lexeme, expected)
            return False
        if lexeme.kind == "_NL" and "COLON" in expected:
            self.report_refusal(lexeme, expected)
            self.automaton.feed(Lexeme("COLON", "", lexeme.start, lexeme.end))
            return True
        self.refuse_line(lexeme, expected)
        return False

    def report_refusal(self, lexeme: Lexeme, expected: frozenset[str]) -> Refusal:
        # A spec without mistakes never pays for importing what explains them.
        from optforge.dsl.habits import suggest
        from optforge.dsl.mistakes import Refusal, explain_refusal

        if self.blocks:
            self.blocks[-1].troubled = True
        refusal = Refusal(
            self.source,
            lexeme,
            self.previous,
            expected,
            tuple(bracket for bracket in self.layout.brackets if bracket is not lexeme),
            self.layout.line_start and bool(lexeme.text),
            self.previous_first,
        )
        if not self.is_known(lexeme):
            self.report(explain_refusal(refusal, suggest(refusal)))
        self.reported_at = lexeme.start
        return refusal

    def is_known(self, lexeme: Lexeme) -> bool:
        """Whether a refusal only follows from something reported before: one thing is enough to say of a line."""
        if lexeme.start == self.reported_at or (self.blocks and self.blocks[-1].continues):
            return True
        first = lexeme if self.between_lines else self.first
        return first.start in self.layout.misplaced

    def finish(self, lexeme: Lexeme, expected: frozenset[str]) -> None:
        if self.diagnostics:
            return
        if self.start == "start" and expected != {"_INDENT"}:
            self.report(errors.empty_file(Span(self.source, lexeme.start, lexeme.end)))
        else:
            self.report_refusal(lexeme, expected)

    def enter_unexpected_block(self, lexeme: Lexeme, expected: frozenset[str]) -> bool:
        """Read a block under the header it should have had, or leave out its indentation."""
        header = _HEADERS.get(self.refused_header or "")
        if header is not None and self.put_header(header.split(), lexeme.start):
            return True
        if self.refused_header is not None:
            self.skip_block()
            return False
        self.report_refusal(lexeme, expected)
        self.blocks.append(_Block(None, continues=True))
        return False

    def put_header(self, kinds: list[str], position: int) -> bool:
        automaton = self.line.copy()
        for kind in kinds:
            if not automaton.accepts(kind):
                return False
            automaton.feed(Lexeme(kind, "", position, position))
        self.automaton = automaton
        return True

    def skip_block(self) -> None:
        depth = 1
        while depth:
            kind = next(self.lexemes).kind
            depth += (kind == "_INDENT") - (kind == "_DEDENT")

    def leave_block(self, lexeme: Lexeme, expected: frozenset[str]) -> None:
        """A block that ends too early; no message if that is because a line of it was refused."""
        block = self.blocks[-1]
        if not block.troubled:
            self.report_refusal(lexeme, expected)
        self.blocks.pop()
        if self.blocks:
            self.blocks[-1].troubled = True
        assert block.before is not None
        self.return_to(block.before)

    def refuse_line(self, lexeme: Lexeme, expected: frozenset[str]) -> None:
        """Report a line, drop the rest of it and go on behind it."""
        refusal = self.report_refusal(lexeme, expected)
        if self.between_lines:
            self.line, self.first = self.automaton, lexeme
        self.skip_line(lexeme, refusal)
        if self.blocks:
            self.blocks[-1].continues = False
        self.return_to(self.line)
        self.refused_header = self.first.kind if self.first.kind in _HEADERS else _guess_header(self.first.text)

    def skip_line(self, lexeme: Lexeme, refusal: Refusal) -> None:
        end = self.previous.end if self.previous else 0
        if refusal.starts_update and self.previous is not None:
            self.layout.reopen(self.previous.start, self.previous, lexeme)
        elif refusal.leaves_bracket and lexeme.kind != "_NL":
            self.layout.reopen(end, lexeme)
        elif lexeme.kind == "_UNCLOSED":
            self.layout.brackets.clear()
        while lexeme.kind != "_NL":
            lexeme = next(self.lexemes)
            if self.layout.begins_line(lexeme):
                self.layout.reopen(end, lexeme)

    def return_to(self, before: Automaton) -> None:
        """Forget what was taken since then."""
        self.automaton = before.copy()
        self.between_lines = True


def _guess_header(word: str) -> str:
    """The kind of block a misspelt first word was probably meant to open; the word itself if none."""
    from difflib import get_close_matches

    keywords = {word: kind for word, kind in load_tables().keywords.items() if kind in _HEADERS}
    found = get_close_matches(word, keywords, n=1, cutoff=0.6)
    return keywords[found[0]] if found else word
