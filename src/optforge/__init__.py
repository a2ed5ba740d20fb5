"""Optforge: an optimizer is a ten-line spec, compiled to a fast, readable PyTorch optimizer.

    import optforge
    from optforge.generated import NAMO           # shipped, compiled ahead of time

    Mine = optforge.load("mine.opt")              # compiled in memory
    optimizer = Mine(model, lr=1e-2)

Nothing here imports torch before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from optforge.dsl.diagnostics import SpecError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from optforge.curvature import GaussNewtonBartlett, Hutchinson
    from optforge.runtime import Communication

__all__ = [
    "GaussNewtonBartlett",
    "Hutchinson",
    "SpecError",
    "communication",
    "compile_source",
    "explain_orthogonalize",
    "explain_routing",
    "explain_schedule",
    "load",
    "param_groups",
]


def load(path_or_name: str | Path, optimizer: str | None = None) -> Any:
    """The class that a spec defines.

    Args:
        path_or_name: a spec file, the name of a shipped optimizer, schedule or penalty, or a shipped optimizer (or one
            of a spec in the working directory) with wrappers around it, ``"Muon |> Grokfast(alpha=0.95)"``.
        optimizer: which one, where the file defines several.

    Raises:
        SpecError: the spec is wrong; the message shows every mistake with its place.
        LookupError: no such file or name, several to choose from, or functions only.
    """
    from optforge.compiler.load import load_class

    if not isinstance(path_or_name, str | Path):
        raise TypeError(
            f"`load` takes a spec file or the name of a shipped spec, not {type(path_or_name).__qualname__}"
        )
    return load_class(path_or_name, optimizer)


def compile_source(text: str, name: str = "<string>") -> ModuleType:
    """A module with all classes of a spec given as text.

    Raises:
        SpecError: the spec is wrong; the message shows every mistake with its place.
        LookupError: the spec defines functions only.
    """
    from optforge.compiler.load import compile_source as compile_text

    if not isinstance(text, str):
        raise TypeError(f"`compile_source` takes the text of a spec, not {type(text).__qualname__}")
    if not isinstance(name, str):
        raise TypeError(f"`compile_source` takes the name of a spec as text, not {type(name).__qualname__}")
    return compile_text(text, name)


def param_groups(model: Module | Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Parameter groups by role (hidden matrices, convolutions, embeddings, head, vectors) for any generated class.

    Args:
        model: a module, or its named parameters, of which only names and shapes tell what they are.
    """
    from optforge import runtime

    return runtime.param_groups(model)


def explain_routing(model: Module | Iterable[tuple[str, Tensor]], optimizer: type | None = None) -> str:
    """A table of the model's parameters: shape, role, the rule of ``optimizer`` that takes it, its view, and why.

    Args:
        model: a module, or its named parameters.
        optimizer: a generated class; without it the table has no rules.
    """
    from optforge import runtime

    return runtime.explain_routing(model, optimizer)


def explain_schedule(optimizer: Any) -> str:
    """A table of how a generated optimizer runs: its batches, the strategy of each (`backend=` overrides), and why."""
    from optforge import runtime

    return runtime.explain_schedule(optimizer)


def communication(optimizer: Any) -> Communication:
    """What this rank has sent in the last step or event of a generated optimizer: ``rounds``, ``calls`` and ``bytes``.

    The latter two are by collective. All that the optimizer itself has sent counts: matrices and sums, and what ranks
    ask each other before they step; nothing does of what FSDP sends.
    """
    from optforge import runtime

    return runtime.communication(optimizer)


def explain_orthogonalize(shape: Sequence[int], **options: Any) -> str:
    """How this machine orthogonalizes matrices of this shape (..., rows, cols): dtype, form and products, in one line.

    Options: ``dtype`` (float32), ``device`` ("cpu"), and ``steps``, ``method`` and ``coefficients`` as in specs.
    """
    from optforge import runtime

    return runtime.explain_orthogonalize(shape, **options)


def __getattr__(name: str) -> Any:
    """The helpers that need torch, imported when they are first asked for."""
    if name in ("GaussNewtonBartlett", "Hutchinson"):
        from optforge import curvature

        return getattr(curvature, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
