"""The spec files of the disk as one check sees them, and a record of what it took from them.

Every file and folder is read when it is first asked for, and once, so that nothing changes while a check looks. What
a check asked and was answered stays with it: whoever keeps its result asks, when files are looked at again, whether all
the answers are still the same. Texts that an editor has open count in place of what the disk says. Nothing here knows
what a definition means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from optforge.dsl import ast
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.parser import parse_source, read_source
from optforge.dsl.source import Source

PACKAGE = Path(__file__).parent.parent.parent
SPECS = Path(os.path.realpath(PACKAGE / "specs"))
HEAD = re.compile(r"^(def|optimizer|wrapper|schedule|penalty)[ \t]+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which files of a folder define a name: ``Lookup(folder, "def", "ema")``."""

    folder: Path
    keyword: str
    name: str


# The files, each with its whole text.
Answer = tuple[tuple[Path, str], ...]
Index = dict[tuple[str, str], list[Path]]


@dataclass(frozen=True, eq=False)
class Files:
    """The spec files as they were when they were first asked for; ``asked`` has every question with its answer.

    ``overlays`` are texts that count in place of what the disk says, by absolute path.
    """

    asked: dict[Lookup, Answer] = field(default_factory=dict)
    overlays: Mapping[Path, str] = field(default_factory=dict)
    _sources: dict[Path, tuple[Source | None, tuple[Diagnostic, ...]]] = field(default_factory=dict)
    _indexes: dict[Path, Index] = field(default_factory=dict)

    def read(self, path: Path) -> tuple[Source | None, tuple[Diagnostic, ...]]:
        """The text of a file, under the path by which it was asked for; or why there is none."""
        place = real_path(path)
        if place not in self._sources:
            overlay = self.overlays.get(place)
            self._sources[place] = read_source(path) if overlay is None else (Source(path.as_posix(), overlay), ())
        source, problems = self._sources[place]
        return (source and Source(path.as_posix(), source.text)), problems

    def text(self, path: Path) -> str:
        """The text of a file that an answer named."""
        source, _ = self.read(path)
        assert source is not None
        return source.text

    def homes(self, folder: Path, keyword: str, name: str) -> list[Path]:
        """The files of a folder in which a line begins as a definition of that name does."""
        return [path for path, _ in self.answer(Lookup(folder, keyword, name))]

    def answer(self, question: Lookup) -> Answer:
        """What the files say, and said before."""
        if question not in self.asked:
            paths = self.index(question.folder).get((question.keyword, question.name), ())
            self.asked[question] = tuple((path, self.text(path)) for path in paths)
        return self.asked[question]

    def anew(self) -> Files:
        """The same files as they were seen here, of which nothing has been asked."""
        return Files({}, self.overlays, self._sources, self._indexes)

    def confirms(self, asked: Mapping[Lookup, Answer]) -> bool:
        """Whether every answer that was given to somebody else would be given here."""
        return all(self.answer(question) == answer for question, answer in asked.items())

    def index(self, folder: Path) -> Index:
        """The files of a folder by what they define; what is no text, or cannot be read, defines nothing."""
        if folder not in self._indexes:
            found: Index = {}
            for path in self._specs_in(folder):
                source, _ = self.read(path)
                for head in dict.fromkeys(HEAD.findall(source.text)) if source else ():
                    found.setdefault(head, []).append(path)
            self._indexes[folder] = found
        return self._indexes[folder]

    def _specs_in(self, folder: Path) -> list[Path]:
        """The spec files of a folder in the order of their names; pipes, devices and folders are none.

        A file that has several names by way of links is one file, under its own name if that is in the folder.
        """
        opened = {path for path in self.overlays if path.parent == real_path(folder) and path.suffix == ".opt"}
        try:
            found = {path for path in folder.glob("*.opt") if path.is_file()}
        except OSError:
            found = set()
        named = sorted(found | {folder / path.name for path in opened}, key=lambda path: (not path.is_symlink(), path))
        return sorted({real_path(path): path for path in named}.values())

    def parse(self, path: Path) -> ast.File:
        """The tree of a file that an answer named; one that does not parse raises :class:`SpecError`."""
        return parse_text(shown_path(path), self.text(path))


@lru_cache(maxsize=512)
def parse_text(shown: str, text: str) -> ast.File:
    """The tree of a text; remembered by the text itself, so that it can never be an old one."""
    file, problems = parse_source(Source(shown, text))
    if file is None:
        raise SpecError(problems)
    return file


def real_path(path: Path) -> Path:
    """The path without links; one that leads in a circle stays as it is, so that the system refuses to open it."""
    return Path(os.path.realpath(path))


def shown_path(path: Path) -> str:
    """A spec's path as messages and generated files name it: never absolute."""
    resolved = real_path(path)
    for base, prefix in ((Path.cwd(), ""), (SPECS, "specs/")):
        if resolved.is_relative_to(base):
            return prefix + resolved.relative_to(base).as_posix()
    return path.name
