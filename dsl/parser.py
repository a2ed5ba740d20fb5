"""Text to tree: a source in, a surface tree or the reasons why there is none out.

Every refused line is reported and left out, and parsing goes on behind it, so that the errors of one
file come together. No name is looked up here; nothing is known of what a spec means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optforge.dsl import ast, errors
from optforge.dsl.automaton import END, Automaton
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.layout import Layout
from optforge.dsl.lexer import Lexeme, scan
from optforge.dsl.mistakes import Refusal, explain_refusal
from optforge.dsl.source import Source, Span
from optforge.dsl.tables import load_tables
from optforge.dsl.tree import TreeBuilder

MAX_SIZE = 256 * 1024
MAX_ERRORS = 20


def read_source(path: str | Path) -> tuple[Source | None, tuple[Diagnostic, ...]]:
    """The text of a file, or why there is none. A byte order mark goes, and CRLF becomes LF."""
    shown = Path(path).as_posix()
    nowhere = Span(Source(shown, ""), 0, 0)
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_SIZE + 1)
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
    """An open block: the automaton before its first line (None if the block is to be ignored), and whether any
    line in it was refused."""

    before: Automaton | None
    troubled: bool = False


class _TooManyErrors(Exception):
    pass


class _Parse:
    """One parse with recovery. ``line`` is the automaton at the start of the current line."""

    def __init__(self, source: Source, start: str) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.layout = Layout(source, self.report)
        self.automaton = Automaton.begin(load_tables(), TreeBuilder(source, self.report), start)
        self.line = self.automaton.copy()
        self.between_lines = True
        self.blocks: list[_Block] = []
        self.previous: Lexeme | None = None

    def run(self) -> tuple[Any, tuple[ast.Comment, ...], tuple[Diagnostic, ...]]:
        if len(self.source.text) > MAX_SIZE:
            whole = Span(self.source, 0, 0)
            return None, (), (errors.too_large("this file has too many characters", MAX_SIZE, whole),)
        tree = None
        try:
            lexemes = self.layout.arrange(scan(self.source.text))
            for lexeme in lexemes:
                while not self.automaton.accepts(lexeme.kind):
                    if not self.recover(lexeme, lexemes):
                        break
                else:
                    self.take(lexeme)
            if not self.diagnostics:
                tree = self.automaton.values[-1].content
        except _TooManyErrors:
            pass
        return tree, tuple(self.layout.comments), tuple(sorted(self.diagnostics, key=lambda d: d.span.start))

    def report(self, diagnostic: Diagnostic) -> None:
        if diagnostic in self.diagnostics:
            return
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
            self.line = self.automaton.copy()
        self.between_lines = lexeme.kind in ("_NL", "_INDENT", "_DEDENT")
        self.automaton.feed(lexeme)
        if lexeme.text:
            self.previous = lexeme

    def recover(self, lexeme: Lexeme, lexemes: Iterator[Lexeme]) -> bool:
        """Report a refused lexeme and get the automaton to where parsing can go on.

        True if the lexeme itself is still to be taken.
        """
        if lexeme.kind == END:
            if not self.diagnostics:
                self.report(errors.empty_file(Span(self.source, lexeme.start, lexeme.end)))
            return False
        if lexeme.kind == "_DEDENT" and self.blocks[-1].before is None:
            self.blocks.pop()
            return False
        expected = self.automaton.expected()
        if lexeme.kind == "_INDENT":
            self.report_refusal(lexeme, expected)
            self.blocks.append(_Block(None))
            return False
        if expected == {"_INDENT"}:
            self.report_refusal(lexeme, expected)
            self.replace_from(self.line)
            return True
        if lexeme.kind == "_DEDENT":
            self.leave_block(lexeme, expected)
            return False
        self.report_refusal(lexeme, expected)
        if lexeme.kind == "_NL" and "COLON" in expected:
            self.automaton.feed(Lexeme("COLON", "", lexeme.start, lexeme.end))
            return True
        self.skip_line(lexeme, lexemes)
        return False

    def report_refusal(self, lexeme: Lexeme, expected: frozenset[str]) -> None:
        if self.blocks:
            self.blocks[-1].troubled = True
        brackets = tuple(self.layout.brackets)
        self.report(
            explain_refusal(Refusal(self.source, lexeme, self.previous, expected, brackets, self.layout.line_start))
        )

    def replace_from(self, before: Automaton) -> None:
        """Let an error mark stand for all that was taken since ``before``."""
        self.automaton = before.copy()
        if self.automaton.accepts("_ERROR"):
            self.automaton.feed(Lexeme("_ERROR", "", self.source_end, self.source_end))
        self.between_lines = True

    @property
    def source_end(self) -> int:
        return self.previous.end if self.previous else 0

    def leave_block(self, lexeme: Lexeme, expected: frozenset[str]) -> None:
        """A block that ends too early; no message if that is because a line of it was refused."""
        block = self.blocks[-1]
        if not block.troubled:
            self.report_refusal(lexeme, expected)
        self.blocks.pop()
        if self.blocks:
            self.blocks[-1].troubled = True
        assert block.before is not None
        self.replace_from(block.before)

    def skip_line(self, lexeme: Lexeme, lexemes: Iterator[Lexeme]) -> None:
        """Drop the rest of a refused line."""
        while lexeme.kind not in ("_NL", END):
            lexeme = next(lexemes)
        self.replace_from(self.automaton if self.between_lines else self.line)
