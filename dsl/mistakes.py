"""What a refused lexeme means to a person: the parser's state in, one diagnostic out.

The state says which kinds of lexemes would have been taken; this module says so in words, and
recognizes habits from other languages. It does not decide how the parser goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.lexer import Lexeme
from optforge.dsl.source import Source, Span


@dataclass(frozen=True, slots=True)
class Refusal:
    """A lexeme the parser cannot take: the two before it, what was possible, and the brackets open there."""

    source: Source
    lexeme: Lexeme
    previous: Lexeme | None
    expected: frozenset[str]
    brackets: tuple[Lexeme, ...]
    first_in_line: bool

    def span(self, lexeme: Lexeme) -> Span:
        return Span(self.source, lexeme.start, lexeme.end)


def explain_refusal(refusal: Refusal) -> Diagnostic:
    """The one thing to say about a refused lexeme."""
    lexeme = refusal.lexeme
    span = refusal.span(lexeme)
    if lexeme.kind in ("_FOREIGN", "_FOREIGN_WORD"):
        return errors.unexpected_character(lexeme.text[0], span)
    if lexeme.kind == "_UNCLOSED":
        return errors.unclosed_string(span)
    if lexeme.kind == "_STRAY":
        return errors.unbalanced_bracket(")", span)
    if refusal.brackets and "RPAR" in refusal.expected and (refusal.first_in_line or lexeme.kind == "_NL"):
        return errors.unbalanced_bracket("(", refusal.span(refusal.brackets[-1]))
    return errors.unexpected_token(lexeme.text or lexeme.kind, ", ".join(sorted(refusal.expected)), span)
