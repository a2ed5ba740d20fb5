"""Which definition each name of a text means: what an editor's go-to-definition and hover stand on.

Whoever looks a name up says here what it found, so that nothing knows for a second time what is visible where. An item
of a file may be looked at again in the course of others, which extend, use or call it; what its names mean is what they
mean in the item itself, and so nothing else is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from optforge.dsl import ast
from optforge.dsl.source import NOWHERE, Source, Span

NameKind: TypeAlias = Literal[
    "hyper",
    "dimension",
    "equation",
    "event",
    "argument",
    "rule",
    "optimizer",
    "wrapper",
    "function",
    "parameter",
    "local",
]


@dataclass(frozen=True, slots=True)
class Meaning:
    """A definition: what it defines, where its name stands, in which file, and its text for people.

    ``path`` is None in the text itself. The name of a rule is the role that it is for.
    """

    kind: NameKind
    span: Span
    path: Path | None = None
    doc: str = ""


class References:
    """What the names of one text mean, by their places; an equation of an event may read another one in each rule."""

    def __init__(self) -> None:
        self.found: dict[Span, tuple[Meaning, ...]] = {}
        self.paths: dict[Source, Path] = {}  # of the other files that names were taken from
        self._item = NOWHERE

    def enter(self, item: ast.Item) -> None:
        """From now on names are looked up for this item of the text."""
        self._item = item.span

    def record(self, use: Span, kind: NameKind, definition: Span, doc: ast.Text | None = None) -> None:
        """The name at ``use`` means what is defined at ``definition``."""
        if self._item.covers(use):
            meaning = Meaning(kind, definition, self.paths.get(definition.source), doc.value if doc else "")
            known = self.found.get(use, ())
            self.found[use] = known if meaning in known else (*known, meaning)

    def at(self, offset: int) -> Iterator[tuple[Span, Meaning]]:
        """The name that stands at a character of the text, or just before it, with what it means."""
        for use, meanings in self.found.items():
            if use.start <= offset <= use.end:
                yield from ((use, meaning) for meaning in meanings)
