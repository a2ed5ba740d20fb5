"""Diagnostics: what is wrong, where, and how it is shown.

A diagnostic is data. The words live in :mod:`optforge.dsl.errors`; this module lays them out,
as text with carets or as JSON for editors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optforge.dsl.source import Span


@dataclass(frozen=True, slots=True)
class Label:
    """A second place that takes part in the mistake, and what it has to do with it."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: the whole ``span`` is underlined, ``note`` stands beside the carets."""

    code: str
    severity: Literal["error", "warning"]
    message: str
    span: Span
    note: str = ""
    labels: tuple[Label, ...] = ()
    help: str | None = None


class SpecError(Exception):
    """Raised by the library functions (never by the command line) when a spec is wrong."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        self.diagnostics = diagnostics
        super().__init__(render_text(diagnostics))


def render_text(diagnostics: tuple[Diagnostic, ...], *, colour: bool = False) -> str:
    """The diagnostics as a person reads them, in source order."""
    raise NotImplementedError
