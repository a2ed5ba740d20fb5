"""The grammar: ``grammar.lark`` in, Lark's lexer and LALR parser of it out, and the text of a spec as tokens.

Finding the tables of the grammar takes Lark some 70 ms, a third of all else that a check does. So it keeps them beside
Python's own compiled modules, where Python keeps any, and finds them anew when the grammar, its options, Lark or
Python are others. What is damaged counts as absent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from lark import Lark, Token
from lark.lark import PostLex

STARTS = ["start", "expression"]


class _RefusedTokens(PostLex):
    """Keeps in the lexer what no rule of the grammar has: it is the parser that refuses it, and says why."""

    always_accept = ("COMMENT", "_UNCLOSED", "_FOREIGN_WORD", "_FOREIGN")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@cache
def load_grammar() -> Lark:
    """Lark's parser of the language, for a whole file and for a single expression."""
    kept = Path(cache_from_source(__file__)).with_suffix(".lark")
    return Lark.open(
        "grammar.lark",
        rel_to=__file__,
        parser="lalr",
        lexer="basic",
        start=STARTS,
        propagate_positions=True,
        postlex=_RefusedTokens(),
        cache=not sys.dont_write_bytecode and str(kept),
    )


@cache
def load_keywords() -> dict[str, str]:
    """The words that are no names, with the kinds of their tokens."""
    patterns = {terminal.pattern.value: terminal.name for terminal in load_grammar().terminals}
    return {word: kind for word, kind in sorted(patterns.items()) if word.isidentifier()}


def scan(text: str) -> Iterator[Token]:
    """Every token of the text in order, comments and what the language does not have included."""
    return load_grammar().lex(text)


def make_token(kind: str, start: int, end: int) -> Token:
    """A token that stands for no text, such as the end of a line."""
    return Token(kind, "", start, end_pos=end)


def start_of(token: Token) -> int:
    """The offset of a token's first character."""
    assert token.start_pos is not None
    return token.start_pos


def end_of(token: Token) -> int:
    """The offset behind a token's last character."""
    assert token.end_pos is not None
    return token.end_pos
