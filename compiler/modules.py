"""Modules of generated text that no file holds, and their classes, which carry the text to wherever they are pickled.

In: the text of a generated module. Out: the module, one for each text in a process, named after the text. Pickle keeps
of a class only where it is found, and a process that has loaded other specs finds nothing there, or something else.
"""

from __future__ import annotations

import builtins
import copyreg
import hashlib
import linecache
import sys
import threading
from types import ModuleType
from typing import Any

PACKAGE = "optforge.generated"  # beside whose modules they stand

_lock = threading.RLock()
_texts: dict[str, tuple[str, str]] = {}  # of each module the text, and what it is called


class CarriedClass(type):
    """The type of classes whose pickles hold the text that defines them; subclasses of these are pickled by name."""


def build_class(*definition: Any, **keywords: Any) -> type:
    """What the statement `class` calls in these modules: the text need not say of which type its classes are."""
    return builtins.__build_class__(*definition, **{"metaclass": CarriedClass, **keywords})  # type: ignore[no-any-return]


def module_of(text: str, name: str) -> ModuleType:
    """The module of a generated text; ``name`` is what tracebacks call it."""
    digest = hashlib.sha256(f"{name}\n{text}".encode()).hexdigest()[:16]
    title = f"{PACKAGE}._loaded_{digest}"
    with _lock:
        if title in _texts:
            return sys.modules[title]
        module = ModuleType(title)
        module.__package__ = PACKAGE
        module.__dict__["__builtins__"] = {**vars(builtins), "__build_class__": build_class}
        module.__file__ = f"<optforge {name} {digest}>"
        linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
        sys.modules[title] = module
        try:
            exec(compile(text, module.__file__, "exec"), module.__dict__)
        except BaseException:
            del sys.modules[title]
            raise
        _texts[title] = text, name
        return module


def restore_class(class_name: str, text: str, name: str) -> type:
    """The class of a generated text: the one that there is, if the process has loaded the text already."""
    found: type = getattr(module_of(text, name), class_name)
    return found


def reduce_class(cls: type) -> str | tuple[object, tuple[str, str, str]]:
    """How a class is pickled: with its text, or by its name if it only extends one that has a text."""
    module = _texts.get(cls.__module__)
    return (restore_class, (cls.__name__, *module)) if module else cls.__qualname__


copyreg.pickle(CarriedClass, reduce_class)  # type: ignore[arg-type]
