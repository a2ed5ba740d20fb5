"""The spec files of the disk as one check sees them, and a record of what it took from them.

Every file and folder is read when it is first asked for, and once, so that nothing changes while a check looks. What
a check asked and was answered stays with it: whoever keeps its result asks another workspace, later, whether all the
answers are still the same. Nothing here knows what a definition means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from optforge.dsl import ast
from optforge.dsl.diagnostics import SpecError
from optforge.dsl.parser import parse_source, read_source
from optforge.dsl.source import Source

PACKAGE = Path(__file__).parent.parent.parent
SPECS = (PACKAGE / "specs").resolve()
HEAD = re.compile(r"^(def|optimizer|schedule|penalty)[ \t]+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Question:
    """Which files of a folder define a name: ``Question(folder, "def", "ema")``."""

    folder: Path
    keyword: str
    name: str


# The files, each with its whole text.
Answer = tuple[tuple[Path, str], ...]
Index = dict[tuple[str, str], list[Path]]


@dataclass(frozen=True, eq=False)
class Workspace:
    """The spec files as they were when they were first asked for; ``asked`` has every question with its answer."""

    asked: dict[Question, Answer] = field(default_factory=dict)
    _texts: dict[Path, str] = field(default_factory=dict)
    _indexes: dict[Path, Index] = field(default_factory=dict)

    def homes(self, folder: Path, keyword: str, name: str) -> list[Path]:
        """The files of a folder in which a line begins as a definition of that name does."""
        return [path for path, _ in self.answer(Question(folder, keyword, name))]

    def answer(self, question: Question) -> Answer:
        """What the disk says, and said before in this workspace."""
        if question not in self.asked:
            paths = self.index(question.folder).get((question.keyword, question.name), ())
            self.asked[question] = tuple((path, self._texts[path]) for path in paths)
        return self.asked[question]

    def anew(self) -> Workspace:
        """The same files as they were seen here, of which nothing has been asked."""
        return Workspace({}, self._texts, self._indexes)

    def confirms(self, asked: Mapping[Question, Answer]) -> bool:
        """Whether every answer of another workspace is what the disk says here."""
        return all(self.answer(question) == answer for question, answer in asked.items())

    def index(self, folder: Path) -> Index:
        """The files of a folder by what they define; what is no text, or cannot be read, defines nothing."""
        if folder not in self._indexes:
            found: Index = {}
            for path in spec_files(folder):
                source, _ = read_source(path)
                if source is not None:
                    self._texts[path] = source.text
                    for head in dict.fromkeys(HEAD.findall(source.text)):
                        found.setdefault(head, []).append(path)
            self._indexes[folder] = found
        return self._indexes[folder]

    def parse(self, path: Path) -> ast.File:
        """The tree of a file that an answer named; one that does not parse raises :class:`SpecError`."""
        return parse_text(shown_path(path), self._texts[path])


@lru_cache(maxsize=512)
def parse_text(shown: str, text: str) -> ast.File:
    """The tree of a text; remembered by the text itself, so that it can never be an old one."""
    file, problems = parse_source(Source(shown, text))
    if file is None:
        raise SpecError(problems)
    return file


def spec_files(folder: Path) -> Iterable[Path]:
    """The spec files of a folder in the order of their names; pipes, devices and folders are none."""
    try:
        return sorted(path for path in folder.glob("*.opt") if path.is_file())
    except OSError:
        return ()


def shown_path(path: Path) -> str:
    """A spec's path as messages and generated files name it: never absolute."""
    resolved = path.resolve()
    for base, prefix in ((Path.cwd(), ""), (SPECS, "specs/")):
        if resolved.is_relative_to(base):
            return prefix + resolved.relative_to(base).as_posix()
    return path.name
