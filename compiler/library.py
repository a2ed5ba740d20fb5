"""Where definitions are found: the file itself, the files beside it, the shipped specs, the prelude.

Takes names, gives surface definitions together with the scope their own names are looked up in.
Files are parsed when a name in them is first needed, and only once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.parser import parse_source, read_source
from optforge.dsl.source import Source

PACKAGE = Path(__file__).parent.parent
SPECS = PACKAGE / "specs"
PRELUDE = PACKAGE / "dsl" / "prelude.opt"


@dataclass(frozen=True, eq=False)
class Scope:
    """The definitions of one file and the folder in which others may stand."""

    folder: Path | None
    functions: dict[str, ast.Function] = field(default_factory=dict)
    optimizers: dict[str, ast.Optimizer] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def find_function(self, name: str) -> tuple[ast.Function, Scope] | None:
        for scope in (self, *self._others("def", name), prelude()):
            if name in scope.functions:
                return scope.functions[name], scope
        return None

    def find_optimizer(self, name: str) -> tuple[ast.Optimizer, Scope] | None:
        for scope in (self, *self._others("optimizer", name)):
            if name in scope.optimizers:
                return scope.optimizers[name], scope
        return None

    def _others(self, keyword: str, name: str) -> list[Scope]:
        """Scopes of the other files that seem to define ``keyword name``, nearest first."""
        return [load_scope(path) for path in self.neighbours.get((keyword, name), ())]

    @cached_property
    def neighbours(self) -> dict[tuple[str, str], list[Path]]:
        """The files beside this one, and then the shipped ones, by what their lines begin with."""
        found: dict[tuple[str, str], list[Path]] = {}
        folders = dict.fromkeys(folder for folder in (self.folder, SPECS) if folder)
        for path in (path for folder in folders for path in sorted(folder.glob("*.opt"))):
            for keyword, name in heads_of(path):
                found.setdefault((keyword, name), []).append(path)
        return found

    def known_optimizers(self) -> list[str]:
        return [*self.optimizers, *(name for keyword, name in self.neighbours if keyword == "optimizer")]

    def kind_of(self, name: str) -> str | None:
        """What a name stands for that is no optimizer: a schedule, a penalty or a function."""
        if name in self.others:
            return self.others[name]
        if name in self.functions or name in prelude().functions:
            return "function"
        kinds = ("schedule", "penalty", "function")
        words = ("schedule", "penalty", "def")
        return next((kind for kind, word in zip(kinds, words, strict=True) if (word, name) in self.neighbours), None)

    def known_functions(self) -> list[str]:
        others = [name for keyword, name in self.neighbours if keyword == "def"]
        return [*self.functions, *others, *prelude().functions]


HEAD = re.compile(r"^(def|optimizer|schedule|penalty)[ \t]+(\w+)", re.MULTILINE)


def heads_of(path: Path) -> list[tuple[str, str]]:
    """``(optimizer, Name)`` and the like for each definition of a file; one that is no text has none."""
    try:
        return [(keyword, name) for keyword, name in HEAD.findall(path.read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError):
        return []


def scope_of(file: ast.File, folder: Path | None) -> Scope:
    """The scope of a parsed file; of two definitions of one name the first counts."""
    scope = Scope(folder)
    for item in file.items:
        if isinstance(item, ast.Function):
            scope.functions.setdefault(item.name.name, item)
        elif isinstance(item, ast.Optimizer):
            scope.optimizers.setdefault(item.name.name, item)
        else:
            scope.others.setdefault(item.name.name, type(item).__name__.lower())
    return scope


def load_scope(path: Path) -> Scope:
    """The scope of another file; one that does not parse raises :class:`SpecError`."""
    stat = path.stat()
    return _load_scope(path, stat.st_mtime_ns, stat.st_size)


def shown_path(path: Path) -> str:
    """A spec's path as messages and generated files name it: never absolute."""
    resolved = path.resolve()
    for base, prefix in ((Path.cwd(), ""), (SPECS.resolve(), "specs/")):
        if resolved.is_relative_to(base):
            return prefix + resolved.relative_to(base).as_posix()
    return path.name


@lru_cache(maxsize=512)
def _load_scope(path: Path, modified: int, size: int) -> Scope:
    source, problems = read_source(path)
    file, more = parse_source(Source(shown_path(path), source.text)) if source else (None, ())
    if file is None:
        raise SpecError((*problems, *more))
    return scope_of(file, path.parent)


@lru_cache(maxsize=1)
def prelude() -> Scope:
    """The functions of ``prelude.opt``, written in the language itself."""
    file, problems = parse_source(Source("prelude.opt", PRELUDE.read_text(encoding="utf-8")))
    if file is None:
        raise SpecError(problems)
    return scope_of(file, None)


# More than this nobody reads.
ERROR_LIMIT = 50
EQUATION_LIMIT = 1000

Many = TypeVar("Many", bound=ast.Node)


def few(nodes: Sequence[Many], limit: int, what: str) -> Sequence[Many]:
    """The nodes themselves; too many of them end the check, for what is said about parts of them is no help."""
    if len(nodes) > limit:
        raise SpecError((errors.too_large(f"these are too many {what}", limit, nodes[limit].span),))
    return nodes


Reporter = Callable[[Diagnostic], None]


@dataclass
class Growth:
    """How many operations the functions of a file have been written out to, and the limit that was reached."""

    operations: int = 0
    cycles: set[frozenset[str]] = field(default_factory=set)
    problem: tuple[str, int] | None = None
    is_reported: bool = False


class Report:
    """Collects the diagnostics of a file, one of a code at each place; ``count`` counts also those left out.

    A :class:`SpecError` without diagnostics ends the check when there are enough of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.growth = Growth()
        self.diagnostics: list[Diagnostic] = []
        self._keys: set[object] = set()

    def __call__(self, diagnostic: Diagnostic) -> None:
        self.once(diagnostic, (diagnostic.code, diagnostic.span))

    def once(self, diagnostic: Diagnostic, key: object) -> None:
        """Report the first of several diagnostics that say the same, though maybe of different places."""
        self.count += 1
        if key not in self._keys:
            self._keys.add(key)
            self.diagnostics.append(diagnostic)
        if len(self.diagnostics) >= ERROR_LIMIT and self.failed:
            raise SpecError(())

    @property
    def failed(self) -> bool:
        return any(diagnostic.severity == "error" for diagnostic in self.diagnostics)
