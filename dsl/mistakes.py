"""What a refused lexeme means to a person: the parser's state in, one diagnostic out.

The state says which kinds of lexemes would have been taken; this module says so in words. What
people may have meant instead is in :mod:`optforge.dsl.habits`; how the parser goes on, in the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.layout import LINE_STARTERS
from optforge.dsl.lexer import Lexeme
from optforge.dsl.source import Source, Span
from optforge.dsl.tables import load_tables

OPERATORS = frozenset(
    {"PLUS", "MINUS", "STAR", "SLASH", "AT", "CARET", "QUOTE", "CMP", "AND", "OR", "IN", "IF", "_PIPE"}
)
EXPRESSION = frozenset({"NUMBER", "NAME", "STRING", "TRUE", "FALSE", "INF", "LPAR", "MINUS", "NOT"})

# The order in which alternatives are named. What is missing here is never worth naming.
WORDS = {
    "_INDENT": "an indented block",
    "EXTENDS": "`extends`",
    "EQUAL": "`=`",
    "_ARROW": "`<-`",
    "USE": "`use`",
    "LPAR": "`(`",
    "COMMA": "`,`",
    "RPAR": "`)`",
    "COLON": "`:`",
    "WHERE": "`where`",
    "STRING": "a description",
    "_NL": "the end of the line",
}
LINE_WORDS = {
    "OPTIMIZER": "`optimizer`",
    "SCHEDULE": "`schedule`",
    "PENALTY": "`penalty`",
    "DEF": "`def`",
    "HYPER": "`hyper`",
    "FOR": "`for`",
    "ON": "`on`",
    "NAME": "an equation",
    "CLAIM": "`claim`",
    "RETURN": "`return`",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A lexeme the parser cannot take: the one before it, what was possible, and the brackets open there."""

    source: Source
    lexeme: Lexeme
    previous: Lexeme | None
    expected: frozenset[str]
    brackets: tuple[Lexeme, ...]
    first_in_line: bool
    after_first: bool

    def span(self, lexeme: Lexeme) -> Span:
        return Span(self.source, lexeme.start, lexeme.end)

    @property
    def following(self) -> str:
        """The rest of the line behind the refused lexeme."""
        line, _ = self.source.locate(self.lexeme.end)
        return self.source.line(line)[self.lexeme.end - self.source.line_starts[line - 1] :].lstrip(" \t")

    @property
    def adjacent(self) -> bool:
        return self.previous is not None and self.previous.end == self.lexeme.start

    @property
    def starts_statement(self) -> bool:
        return self.first_in_line and not self.brackets

    @property
    def is_keyword(self) -> bool:
        return self.lexeme.kind in load_tables().keywords.values()

    @property
    def starts_update(self) -> bool:
        """``name <-`` at the start of a line: no part of an expression, whatever brackets are open."""
        return self.lexeme.kind == "_ARROW" and self.after_first and bool(self.brackets)

    @property
    def leaves_bracket(self) -> bool:
        """Whether the mistake is that a bracket was not closed before this lexeme."""
        if not self.brackets:
            return False
        if self.lexeme.kind == "_NL" or self.starts_update:
            return True
        return self.first_in_line and (self.lexeme.kind in LINE_STARTERS or "RPAR" in self.expected)


def explain_refusal(refusal: Refusal, hint: str | None) -> Diagnostic:
    """The one thing to say about a refused lexeme."""
    lexeme = refusal.lexeme
    span = refusal.span(lexeme)
    match lexeme.kind:
        case "_FOREIGN" | "_FOREIGN_WORD":
            return _explain_foreign(refusal, hint)
        case "_UNCLOSED":
            first_line = lexeme.text.split("\n", 1)[0].rstrip()
            return errors.unclosed_string(Span(refusal.source, lexeme.start, lexeme.start + len(first_line)), hint)
        case "_STRAY":
            return errors.unbalanced_bracket(")", span)
        case "_INDENT":
            return errors.bad_indentation(span, "nothing before this line opens a block", hint)
    if refusal.leaves_bracket:
        return errors.unbalanced_bracket("(", refusal.span(refusal.brackets[-1]))
    return errors.unexpected_token(_describe_found(refusal), _describe_expected(refusal), span, hint)


def _explain_foreign(refusal: Refusal, hint: str | None) -> Diagnostic:
    """Of a word only the character that does not belong there is meant: ``caf`` of ``café`` would be a name."""
    lexeme = refusal.lexeme
    at = next((index for index, char in enumerate(lexeme.text) if not char.isascii()), 0)
    start = lexeme.start + at
    symbols = lexeme.kind == "_FOREIGN" and lexeme.text.isprintable() and len(lexeme.text) < 10
    end = lexeme.end if symbols else start + 1
    return errors.unexpected_character(refusal.source.text[start:end], Span(refusal.source, start, end), hint)


def _describe_found(refusal: Refusal) -> str:
    lexeme = refusal.lexeme
    fixed = {
        "_NL": "the end of the line",
        "_DEDENT": "the end of the block",
        "$END": "the end of the file",
        "STRING": "a string",
    }
    if lexeme.kind in fixed:
        return fixed[lexeme.kind]
    return f"the keyword `{lexeme.text}`" if refusal.is_keyword else f"`{lexeme.text}`"


def _describe_expected(refusal: Refusal) -> str:
    expected, previous = refusal.expected, refusal.previous
    between_lines = refusal.starts_statement or refusal.lexeme.kind == "_DEDENT"
    if between_lines and "_INDENT" not in expected:
        return _join([word for kind, word in LINE_WORDS.items() if kind in expected] or ["the end of the block"])
    if "ELSE" in expected:
        return "`else`"
    words = []
    if expected >= EXPRESSION - {"NOT"}:
        words.append("an expression")
        expected -= EXPRESSION
    elif "PLUS" in expected:
        words.append("an operator")
        expected -= OPERATORS | {"LPAR", "WHERE", "STRING"}
    elif "NAME" in expected:
        words.append("a name")
    words += [word for kind, word in WORDS.items() if kind in expected] or ["the end of the file"] * (not words)
    if refusal.lexeme.kind == "_NL" and "COLON" in expected:
        words = ["`:`"]
    after = previous is not None and len(words) == 1 and not refusal.first_in_line
    return _join(words) + (f" after `{_shorten(previous.text)}`" if after and previous else "")


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _shorten(text: str) -> str:
    return text if len(text) <= 30 and "\n" not in text else text[:10].split("\n")[0] + "..."
