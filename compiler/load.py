"""Specs as classes without files: compiled in memory, cached, with sources that tracebacks can show."""

from __future__ import annotations

import linecache
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from optforge.compiler.library import SPECS, Scope, shown_path
from optforge.compiler.pipeline import compile_program
from optforge.compiler.targets.torch.render import origin_line, render_program
from optforge.dsl.diagnostics import SpecError
from optforge.dsl.errors import nearest
from optforge.dsl.parser import read_source
from optforge.dsl.source import Source

PACKAGE = "optforge.generated"  # whose runtime the loaded modules share


def compile_source(text: str, name: str = "<string>", folder: Path | None = None) -> ModuleType:
    """A module with the classes of a spec.

    Args:
        text: the spec.
        name: what messages and tracebacks call it.
        folder: where specs that it extends or uses are looked for, before the shipped ones.

    Raises:
        SpecError: the spec is wrong; the message shows every mistake with its place.
    """
    return _compiled(text, name, folder)


@lru_cache(maxsize=256)
def _compiled(text: str, name: str, folder: Path | None) -> ModuleType:
    program = compile_program(Source(name, text), folder)
    generated = render_program(program, origin_line(name, text))
    number = sum(key.startswith(f"{PACKAGE}._loaded_") for key in sys.modules) + 1
    module = ModuleType(f"{PACKAGE}._loaded_{number}")
    module.__package__ = PACKAGE
    module.__file__ = f"<optforge {name} {number}>"
    lines = generated.splitlines(keepends=True)
    linecache.cache[module.__file__] = (len(generated), None, lines, module.__file__)
    sys.modules[module.__name__] = module
    exec(compile(generated, module.__file__, "exec"), module.__dict__)
    return module


def load_class(path_or_name: str | Path, class_name: str | None = None) -> type:
    """The class of a spec file, or of a shipped optimizer, schedule or penalty by its name.

    Raises:
        SpecError: the spec is wrong.
        LookupError: there is no such file or name, or the file defines several and none was chosen.
    """
    path = find_spec(path_or_name)
    source, problems = read_source(path)
    if source is None:
        raise SpecError(problems)
    module = compile_source(source.text, shown_path(path), path.resolve().parent)
    names: list[str] = module.__all__
    wanted = class_name or (str(path_or_name) if str(path_or_name) in names else None)
    if wanted is None and len(names) == 1:
        wanted = names[0]
    if wanted is None:
        raise LookupError(f"{path} defines {', '.join(names)}: say which one")
    if wanted not in names:
        raise LookupError(f"{path} defines no `{wanted}`, but {', '.join(names)}")
    found: type = getattr(module, wanted)
    return found


def find_spec(path_or_name: str | Path) -> Path:
    """The file of a path, or the shipped spec that defines a name."""
    path = Path(path_or_name)
    if path.suffix == ".opt" or path.is_file():
        if not path.is_file():
            raise LookupError(f"there is no file {path}")
        return path
    name = str(path_or_name)
    shipped = Scope(SPECS).neighbours
    for (keyword, known), paths in shipped.items():
        if known == name and keyword != "def":
            return paths[0]
    hint = nearest(name, [known for keyword, known in shipped if keyword != "def"])
    raise LookupError(f"there is no shipped spec of `{name}`" + (f"; {hint}" if hint else ""))
