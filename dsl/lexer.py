"""Characters to lexemes: a spec's text in, every piece of it with its kind out.

Nothing is refused here: a character the language does not have, or a string without an end, is
a lexeme of a kind that no rule of the grammar takes. Line structure is :mod:`optforge.dsl.layout`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from optforge.dsl.tables import load_tables

# Kinds beyond the grammar's own. They are tried last, so that they take only what nothing else does.
EXTRA = (
    ("COMMENT", r"#[^\r\n]*"),
    ("_SPACE", r"[\t ]+"),
    ("_UNCLOSED", r'"""[\s\S]*|"[^"\n]*'),
    ("_FOREIGN_WORD", r"\w+"),
    ("_FOREIGN", r'[^\w\s"#()+*/^@\'=<>,:|-]+|[\s\S]'),
)


class Lexeme(NamedTuple):
    """A piece of text: its kind (a terminal of the grammar) and the characters it covers."""

    kind: str
    text: str
    start: int
    end: int


@cache
def _scanner() -> tuple[re.Pattern[str], dict[str, str]]:
    tables = load_tables()
    pattern = "|".join(f"(?P<{name}>{regex})" for name, regex in (*tables.terminals, *EXTRA))
    return re.compile(pattern), tables.keywords


def scan(text: str, start: int = 0) -> Iterator[Lexeme]:
    """Every lexeme of the text from ``start`` on, except spaces, in order."""
    pattern, keywords = _scanner()
    for match in pattern.finditer(text, start):
        kind = match.lastgroup
        assert kind is not None
        if kind == "NAME":
            word = match.group()
            yield Lexeme(keywords.get(word, kind), word, match.start(), match.end())
        elif kind != "_SPACE":
            yield Lexeme(kind, match.group(), match.start(), match.end())
