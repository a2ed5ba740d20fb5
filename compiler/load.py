"""Specs as classes without files: compiled in memory, remembered, with sources that tracebacks can show.

What is remembered holds as long as the spec and everything that was taken from other files are the same texts.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from optforge.compiler.driver import FUNCTIONS_ONLY, Snapshot, Workspace, composition_source, is_composition, run_passes
from optforge.compiler.frontend.files import SPECS, Files, real_path, shown_path
from optforge.compiler.ir import nodes as ir
from optforge.compiler.modules import module_of
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.diagnostics import SpecError
from optforge.dsl.errors import suggest_nearest
from optforge.dsl.source import Source

WORKSPACE = Workspace(TORCH.reserved)
_modules: WeakKeyDictionary[Snapshot, ModuleType] = WeakKeyDictionary()


def compile_source(text: str, name: str = "<string>", folder: Path | None = None) -> ModuleType:
    """A module with the classes of a spec; the same one again while the text and all that it uses stay the same.

    Args:
        text: the spec.
        name: what messages and tracebacks call it.
        folder: where specs that it extends or uses are looked for, before the shipped ones.

    Raises:
        SpecError: the spec is wrong; the message shows every mistake with its place.
        LookupError: the spec defines functions and wrappers only.
    """
    WORKSPACE.refresh()
    return module_for(WORKSPACE.snapshot_of(Source(name, text), folder and real_path(folder)))


def module_for(snapshot: Snapshot) -> ModuleType:
    """The module of what was checked; raises as :func:`compile_source` does."""
    if snapshot not in _modules:
        _modules[snapshot] = compile_module(snapshot)
    return _modules[snapshot]


def check_spec(path: Path) -> Snapshot:
    """A file as it is now; what is wrong with it, or with reading it, is in the diagnostics."""
    WORKSPACE.refresh()
    return WORKSPACE.snapshot(path)


def program_for(snapshot: Snapshot) -> ir.Program:
    """The program that the module is made of; raises :class:`SpecError` with everything that is wrong."""
    return run_passes(snapshot.require(), TORCH.rewrites)


def compile_module(snapshot: Snapshot) -> ModuleType:
    program = program_for(snapshot)
    name = snapshot.source.path
    if not program.declarations:
        raise LookupError(f"{name} {FUNCTIONS_ONLY}")
    return module_of(TORCH.render(program, Origin.of(snapshot.source)), name)


def load_class(path_or_name: str | Path, class_name: str | None = None) -> type:
    """The class of a spec file, of a shipped optimizer, schedule or penalty by its name, or of a composition.

    Raises:
        SpecError: the spec is wrong.
        LookupError: there is no such file or name, or the file defines several and none was chosen.
    """
    WORKSPACE.refresh()
    snapshot = snapshot_for(path_or_name)
    return class_in(module_for(snapshot), snapshot.path, class_name, str(path_or_name))


def snapshot_for(path_or_name: str | Path) -> Snapshot:
    """What is known of a spec file, of a shipped spec by its name, or of a composition.

    Raises:
        SpecError: the file cannot be read.
        LookupError: there is no such file or name.
    """
    source, folder = source_of(path_or_name, WORKSPACE.files)
    return WORKSPACE.snapshot_of(source, folder)


def source_of(path_or_name: str | Path, files: Files | None = None) -> tuple[Source, Path]:
    """The text of a spec under the name that messages use, and the folder of its neighbours; raises as above."""
    if is_composition(path_or_name):
        return composition_source(str(path_or_name)), Path.cwd()
    files = files or Files()
    path = find_spec(path_or_name, files)
    source, problems = files.read(path)
    if source is None:
        raise SpecError(problems)
    return Source(shown_path(path), source.text), real_path(path).parent


def class_in(module: ModuleType, path: Path, wanted: str | None, called: str) -> type:
    """The class that is wanted; else the one that the spec was asked for by, or the only one."""
    names: list[str] = module.__all__
    if wanted is None and called not in names and len(names) > 1:
        raise LookupError(f"{path} defines {', '.join(names)}: say which one")
    if wanted is not None and wanted not in names:
        raise LookupError(f"{path} defines no `{wanted}`, but {', '.join(names)}")
    found: type = getattr(module, wanted or (called if called in names else names[0]))
    return found


def find_spec(path_or_name: str | Path, files: Files | None = None) -> Path:
    """The file of a path, or the shipped spec that defines a name."""
    path = Path(path_or_name)
    if path.suffix == ".opt" or path.is_file():
        if not path.is_file():
            raise LookupError(f"{path} is a folder, not a spec" if path.is_dir() else f"there is no file {path}")
        return path
    name = str(path_or_name)
    shipped = (files or Files()).index(SPECS)
    for (keyword, known), paths in shipped.items():
        if known == name and keyword != "def":
            return paths[0]
    if path.is_dir():
        raise LookupError(f"{path} is a folder, not a spec")
    hint = suggest_nearest(name, [known for keyword, known in shipped if keyword != "def"])
    raise LookupError(f"there is no shipped spec of `{name}`" + (f"; {hint}" if hint else ""))
