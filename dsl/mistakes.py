"""What a refused token means to a person: the parser's state in, one diagnostic out.

The state says which kinds of tokens would have been taken; this module says so in words. What
people may have meant instead is in :mod:`optforge.dsl.habits`; how the parser goes on, in the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from lark import Token

from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.grammar import end_of, load_keywords, start_of
from optforge.dsl.layout import LINE_STARTERS
from optforge.dsl.source import Source, Span

OPERATORS = frozenset(
    {"PLUS", "MINUS", "STAR", "SLASH", "AT", "CARET", "QUOTE", "CMP", "AND", "OR", "IN", "IF", "_PIPE"}
)
EXPRESSION = frozenset({"NUMBER", "NAME", "STRING", "TRUE", "FALSE", "INF", "LPAR", "MINUS", "NOT"})

# The order in which alternatives are named. What is missing here is never worth naming.
WORDS = {
    "_INDENT": "an indented block",
    "EXTENDS": "`extends`",
    "AS": "`as`",
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
    "WRAPPER": "`wrapper`",
    "SCHEDULE": "`schedule`",
    "PENALTY": "`penalty`",
    "DEF": "`def`",
    "FROM": "`from`",
    "HYPER": "`hyper`",
    "FOR": "`for`",
    "ON": "`on`",
    "NAME": "an equation",
    "CLAIM": "`claim`",
    "DIM": "`dim`",
    "SHARED": "`shared`",
    "RETURN": "`return`",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token the parser cannot take: the one before it, what was possible, and the brackets open there."""

    source: Source
    token: Token
    previous: Token | None
    expected: frozenset[str]
    brackets: tuple[Token, ...]
    first_in_line: bool
    after_first: bool

    def span(self, token: Token) -> Span:
        return Span(self.source, start_of(token), end_of(token))

    @property
    def following(self) -> str:
        """The rest of the line behind the refused token."""
        line, column = self.source.locate(end_of(self.token))
        return self.source.line(line)[column - 1 :].lstrip(" \t")

    @property
    def adjacent(self) -> bool:
        return self.previous is not None and end_of(self.previous) == start_of(self.token)

    @property
    def starts_statement(self) -> bool:
        return self.first_in_line and not self.brackets

    @property
    def is_keyword(self) -> bool:
        return self.token.type in load_keywords().values()

    @property
    def starts_update(self) -> bool:
        """``name <-`` at the start of a line: no part of an expression, whatever brackets are open."""
        return self.token.type == "_ARROW" and self.after_first and bool(self.brackets)

    @property
    def leaves_bracket(self) -> bool:
        """Whether the mistake is that a bracket was not closed before this token."""
        if not self.brackets:
            return False
        if self.token.type == "_NL" or self.starts_update:
            return True
        return self.first_in_line and (self.token.type in LINE_STARTERS or "RPAR" in self.expected)


def explain_refusal(refusal: Refusal, hint: str | None) -> Diagnostic:
    """The one thing to say about a refused token."""
    token = refusal.token
    span = refusal.span(token)
    match token.type:
        case "_FOREIGN" | "_FOREIGN_WORD":
            return _explain_foreign(refusal, hint)
        case "_UNCLOSED":
            first_line = token.split("\n", 1)[0].rstrip()
            return errors.unclosed_string(Span(refusal.source, span.start, span.start + len(first_line)), hint)
        case "_STRAY":
            return errors.unbalanced_bracket(")", span)
        case "_INDENT":
            return errors.bad_indentation(span, "nothing before this line opens a block", hint)
    if refusal.leaves_bracket:
        return errors.unbalanced_bracket("(", refusal.span(refusal.brackets[-1]))
    return errors.unexpected_token(_describe_found(refusal), _describe_expected(refusal), span, hint)


def _explain_foreign(refusal: Refusal, hint: str | None) -> Diagnostic:
    """Of a word only the character that does not belong there is meant: ``caf`` of ``café`` would be a name."""
    token = refusal.token
    at = next((index for index, char in enumerate(token) if not char.isascii()), 0)
    start = start_of(token) + at
    symbols = token.type == "_FOREIGN" and token.isprintable() and len(token) < 10
    end = end_of(token) if symbols else start + 1
    return errors.unexpected_character(refusal.source.text[start:end], Span(refusal.source, start, end), hint)


def _describe_found(refusal: Refusal) -> str:
    token = refusal.token
    fixed = {
        "_NL": "the end of the line",
        "_DEDENT": "the end of the block",
        "$END": "the end of the file",
        "STRING": "a string",
    }
    if token.type in fixed:
        return fixed[token.type]
    return f"the keyword `{token}`" if refusal.is_keyword else f"`{token}`"


def _describe_expected(refusal: Refusal) -> str:
    expected, previous = refusal.expected, refusal.previous
    between_lines = refusal.starts_statement or refusal.token.type == "_DEDENT"
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
    if refusal.token.type == "_NL" and "COLON" in expected:
        words = ["`:`"]
    after = previous is not None and len(words) == 1 and not refusal.first_in_line
    return _join(words) + (f" after `{_shorten(previous)}`" if after and previous else "")


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _shorten(text: str) -> str:
    return text if len(text) <= 30 and "\n" not in text else text[:10].split("\n")[0] + "..."
