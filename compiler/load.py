"""Specs as classes without files: compiled in memory, remembered, with sources that tracebacks can show.

What is remembered holds as long as the spec and everything that was taken from other files are the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from optforge.compiler.driver import FUNCTIONS_ONLY, compile_program
from optforge.compiler.frontend.workspace import SPECS, Answer, Question, Workspace, shown_path
from optforge.compiler.modules import module_of
from optforge.compiler.targets.torch.render import origin_line, render_program
from optforge.dsl.diagnostics import SpecError
from optforge.dsl.errors import nearest
from optforge.dsl.parser import read_source
from optforge.dsl.source import Source

REMEMBERED, VERSIONS = 256, 16  # specs, and for each what it was with other files beside it


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module, and what its spec took from other files."""

    module: ModuleType
    asked: Mapping[Question, Answer]


_loaded: dict[tuple[str, str, Path | None], list[Loaded]] = {}


def compile_source(
    text: str, name: str = "<string>", folder: Path | None = None, workspace: Workspace | None = None
) -> ModuleType:
    """A module with the classes of a spec; the same one again while the text and all that it uses stay the same.

    Args:
        text: the spec.
        name: what messages and tracebacks call it.
        folder: where specs that it extends or uses are looked for, before the shipped ones.
        workspace: the files beside it as they are, or were a moment ago.

    Raises:
        SpecError: the spec is wrong; the message shows every mistake with its place.
        LookupError: the spec defines functions only.
    """
    folder = folder and folder.resolve()
    workspace = workspace or Workspace()
    for version in _loaded.get((text, name, folder), []):
        if workspace.confirms(version.asked):
            return version.module
    workspace = workspace.anew()
    module = compile_module(text, name, folder, workspace)
    remember((text, name, folder), Loaded(module, workspace.asked))
    return module


def remember(key: tuple[str, str, Path | None], loaded: Loaded) -> None:
    """Keep a module for the next time; what was kept longest goes."""
    _loaded[key] = [loaded, *_loaded.pop(key, [])][:VERSIONS]
    if len(_loaded) > REMEMBERED:
        del _loaded[next(iter(_loaded))]


def compile_module(text: str, name: str, folder: Path | None, workspace: Workspace) -> ModuleType:
    program = compile_program(Source(name, text), folder, workspace)
    if not program.declarations:
        raise LookupError(f"{name} {FUNCTIONS_ONLY}")
    return module_of(render_program(program, origin_line(name, text)), name)


def load_class(path_or_name: str | Path, class_name: str | None = None) -> type:
    """The class of a spec file, or of a shipped optimizer, schedule or penalty by its name.

    Raises:
        SpecError: the spec is wrong.
        LookupError: there is no such file or name, or the file defines several and none was chosen.
    """
    workspace = Workspace()
    path = find_spec(path_or_name, workspace)
    source, problems = read_source(path)
    if source is None:
        raise SpecError(problems)
    module = compile_source(source.text, shown_path(path), path.resolve().parent, workspace)
    return class_in(module, path, class_name, str(path_or_name))


def class_in(module: ModuleType, path: Path, wanted: str | None, called: str) -> type:
    """The class that is wanted; else the one that the spec was asked for by, or the only one."""
    names: list[str] = module.__all__
    if wanted is None and called not in names and len(names) > 1:
        raise LookupError(f"{path} defines {', '.join(names)}: say which one")
    if wanted is not None and wanted not in names:
        raise LookupError(f"{path} defines no `{wanted}`, but {', '.join(names)}")
    found: type = getattr(module, wanted or (called if called in names else names[0]))
    return found


def find_spec(path_or_name: str | Path, workspace: Workspace | None = None) -> Path:
    """The file of a path, or the shipped spec that defines a name."""
    path = Path(path_or_name)
    if path.suffix == ".opt" or path.is_file():
        if not path.is_file():
            raise LookupError(f"{path} is a folder, not a spec" if path.is_dir() else f"there is no file {path}")
        return path
    name = str(path_or_name)
    shipped = (workspace or Workspace()).index(SPECS)
    for (keyword, known), paths in shipped.items():
        if known == name and keyword != "def":
            return paths[0]
    if path.is_dir():
        raise LookupError(f"{path} is a folder, not a spec")
    hint = nearest(name, [known for keyword, known in shipped if keyword != "def"])
    raise LookupError(f"there is no shipped spec of `{name}`" + (f"; {hint}" if hint else ""))
