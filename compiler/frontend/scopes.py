"""Where definitions are found: the file itself, what it takes from others, the files beside it, shipped optimizers, and
the prelude.

Takes names, gives surface definitions together with the scope their own names are looked up in. The nearest place
that has a definition counts; of files in one folder none is nearer than another. A file is parsed when a name is
taken from it, and only then does it matter that it can be. Functions of shipped specs are seen where they are taken by
name: they are no library, and would change what a name means in specs that never heard of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from optforge.compiler.frontend.files import PACKAGE, SPECS, Files, parse_text
from optforge.compiler.frontend.references import NameKind, References
from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic, SpecError
from optforge.dsl.source import Source

PRELUDE = PACKAGE / "dsl" / "prelude.opt"
WORDS: dict[type, str] = {ast.Function: "def", ast.Optimizer: "optimizer", ast.Wrapper: "wrapper"}
KINDS: dict[type, NameKind] = {ast.Function: "function", ast.Optimizer: "optimizer", ast.Wrapper: "wrapper"}
KEYWORDS = {
    "def": "function",
    "optimizer": "optimizer",
    "wrapper": "wrapper",
    "schedule": "schedule",
    "penalty": "penalty",
}

Item = TypeVar("Item", ast.Function, ast.Optimizer, ast.Wrapper)


@dataclass(frozen=True, eq=False)
class Scope:
    """The definitions of one file, and the folder and the files in which others are found.

    ``references`` are those of the text that is checked, whose names are looked up in the scopes of several files.
    """

    folder: Path | None
    files: Files = field(default_factory=Files)
    references: References = field(default_factory=References)
    functions: dict[str, ast.Function] = field(default_factory=dict)
    optimizers: dict[str, ast.Optimizer] = field(default_factory=dict)
    wrappers: dict[str, ast.Wrapper] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    taken: dict[str, tuple[ast.Identifier, ast.Identifier]] = field(default_factory=dict)  # file and name, by name

    def find_function(self, name: ast.Identifier) -> tuple[ast.Function, Scope] | Diagnostic | None:
        """The function of that name; a diagnostic where it cannot be told which one, or where it cannot be read."""
        found: tuple[ast.Function, Scope] | Diagnostic | None
        if name.name in self.functions:
            found = self.functions[name.name], self
        else:
            found = self.find_taken(name, ast.Function) or self._find_beside(name, ast.Function, (self.folder,))
        if found is None and name.name in prelude().functions:
            found = prelude().functions[name.name], prelude()
            self.references.paths[found[0].span.source] = PRELUDE
        if isinstance(found, tuple):
            self.references.record(name.span, "function", found[0].name.span, found[0].doc)
        return found

    def find_optimizer(self, name: ast.Identifier) -> tuple[ast.Optimizer, Scope] | Diagnostic | None:
        """The optimizer of that name, as :meth:`find_function` does."""
        found: tuple[ast.Optimizer, Scope] | Diagnostic | None
        if name.name in self.optimizers:
            found = self.optimizers[name.name], self
        else:
            places = (self.folder, SPECS)
            found = self.find_taken(name, ast.Optimizer) or self._find_beside(name, ast.Optimizer, places)
        if isinstance(found, tuple):
            self.references.record(name.span, "optimizer", found[0].name.span, found[0].doc)
        return found

    def find_wrapper(self, name: ast.Identifier) -> tuple[ast.Wrapper, Scope] | Diagnostic | None:
        """The wrapper of that name, as :meth:`find_function` does."""
        found: tuple[ast.Wrapper, Scope] | Diagnostic | None
        if name.name in self.wrappers:
            found = self.wrappers[name.name], self
        else:
            places = (self.folder, SPECS)
            found = self.find_taken(name, ast.Wrapper) or self._find_beside(name, ast.Wrapper, places)
        if isinstance(found, tuple):
            self.references.record(name.span, "wrapper", found[0].name.span, found[0].doc)
        return found

    def find_taken(self, name: ast.Identifier, wanted: type[Item]) -> tuple[Item, Scope] | Diagnostic | None:
        """What ``from file: name`` means by this name, if the file says so and has it."""
        if name.name not in self.taken:
            return None
        file, taken = self.taken[name.name]
        found = self._find_beside(taken, wanted, (self.folder, SPECS), file.name)
        if found is None and name.name not in (there := self.names_in(file.name)):
            return errors.not_in_file(name.name, file.name, taken.span, there)
        if isinstance(found, tuple):
            self.references.record(taken.span, KINDS[wanted], found[0].name.span, found[0].doc)
        return found

    def problems_of_taken(self, name: ast.Identifier) -> list[Diagnostic]:
        """Why a name is not in the file that it is taken from; what it is there records who looks it up."""
        found = (
            self.find_taken(name, ast.Function),
            self.find_taken(name, ast.Optimizer),
            self.find_taken(name, ast.Wrapper),
        )
        return [each for each in found if isinstance(each, Diagnostic)]

    def names_in(self, file: str) -> list[str]:
        """What can be taken from a file of that name."""
        for folder in self._folders():
            places = self.files.index(folder)
            if found := [name for (word, name), paths in places.items() if word in WORDS.values() and has(file, paths)]:
                return found
        return []

    def _find_beside(
        self, name: ast.Identifier, wanted: type[Item], folders: Sequence[Path | None], stem: str | None = None
    ) -> tuple[Item, Scope] | Diagnostic | None:
        """The definition in the nearest of the folders that has one, in any file or in that of a name."""
        keyword = WORDS[wanted]
        for folder in dict.fromkeys(folder for folder in folders if folder):
            found: list[tuple[Item, Scope]] = []
            broken: list[Diagnostic] = []
            homes = self.files.homes(folder, keyword, name.name)
            for path in (home for home in homes if stem in (None, home.stem)):
                try:
                    file = self.files.parse(path)
                except SpecError as problem:
                    broken.append(problem.diagnostics[0])
                    continue
                self.references.paths[file.span.source] = path
                scope = scope_of(file, folder, self.files, self.references)
                found += [
                    (item, scope) for item in file.items if isinstance(item, wanted) and item.name.name == name.name
                ]
            if len(found) + len(broken) > 1:
                places = [*(item.name.span for item, _ in found), *(each.span for each in broken)]
                return errors.ambiguous(KEYWORDS[keyword], name.name, name.span, places)
            if broken:
                return errors.broken_neighbour(name.name, name.span, broken[0])
            if found:
                return found[0]
        return None

    def _folders(self) -> Iterator[Path]:
        return iter(dict.fromkeys(folder for folder in (self.folder, SPECS) if folder))

    def _heads(self) -> Iterator[tuple[str, str]]:
        """Keyword and name of what the files in reach define, nearest first."""
        return (head for folder in self._folders() for head in self.files.index(folder))

    def known_optimizers(self) -> list[str]:
        return [*self.optimizers, *(name for keyword, name in self._heads() if keyword == "optimizer")]

    def known_wrappers(self) -> list[str]:
        return [*self.wrappers, *(name for keyword, name in self._heads() if keyword == "wrapper")]

    def chooses(self, name: str) -> bool:
        """Whether the file itself says which function it means."""
        return name in self.functions or name in self.taken

    def shipped_home(self, function: str) -> str | None:
        """The shipped file that has a function of this name, as `from` says it."""
        return next((path.stem for path in self.files.index(SPECS).get(("def", function), ())), None)

    def kind_of(self, name: str) -> str | None:
        """What a name stands for that is not what it should be: an optimizer, a wrapper, a schedule, and so on."""
        own = {
            **dict.fromkeys(self.functions, "function"),
            **dict.fromkeys(self.optimizers, "optimizer"),
            **dict.fromkeys(self.wrappers, "wrapper"),
            **self.others,
        }
        if name in own or name in prelude().functions:
            return own.get(name, "function")
        return next((KEYWORDS[word] for word, known in self._heads() if known == name), None)

    def known_functions(self) -> list[str]:
        beside = self.files.index(self.folder) if self.folder else ()
        others = [name for keyword, name in beside if keyword == "def"]
        return [*self.functions, *self.taken, *others, *prelude().functions]


def has(file: str, paths: Iterable[Path]) -> bool:
    """Whether a file of that name, without its ending, is among them."""
    return any(path.stem == file for path in paths)


def scope_of(file: ast.File, folder: Path | None, files: Files, references: References) -> Scope:
    """The scope of a parsed file; of two definitions of one name the first counts."""
    scope = Scope(folder, files, references)
    for item in file.items:
        if isinstance(item, ast.Function):
            scope.functions.setdefault(item.name.name, item)
        elif isinstance(item, ast.Optimizer):
            scope.optimizers.setdefault(item.name.name, item)
        elif isinstance(item, ast.Wrapper):
            scope.wrappers.setdefault(item.name.name, item)
        elif isinstance(item, ast.Taken):
            for name in item.names:
                scope.taken.setdefault(name.name, (item.file, name))
        else:
            scope.others.setdefault(item.name.name, type(item).__name__.lower())
    return scope


@lru_cache(maxsize=1)
def prelude() -> Scope:
    """The functions of ``prelude.opt``, written in the language itself; like the compiler's own code, read once."""
    return scope_of(parse_text("prelude.opt", PRELUDE.read_text(encoding="utf-8")), None, Files(), References())


def prelude_source() -> Source:
    return next(iter(prelude().functions.values())).span.source


def overrides_prelude(function: ast.Function) -> bool:
    return function.name.name in prelude().functions


def shown_signature(function: ast.Function) -> str:
    """How a function is called, with the defaults of what need not be given."""
    shown = [
        parameter.name.name + (f"={parameter.default.span.text}" if parameter.default else "")
        for parameter in function.parameters
    ]
    return f"{function.name.name}({', '.join(shown)})"
