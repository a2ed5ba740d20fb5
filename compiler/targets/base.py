"""What a target is: everything that the compiler has to know of it.

A target rewrites functions after the common passes or between them, has names of its own, and texts for operators.
Adding one is a folder with such a record; nothing in front of it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optforge.compiler.frontend.reporting import ReservedNames
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import Pattern
from optforge.dsl.source import Source

Pass = Callable[[ir.Function], ir.Function]
NamedPass = tuple[str, Pass]


@dataclass(frozen=True, slots=True)
class Rewrites:
    """The passes of a target: where it recognizes what it has in one, and what it does at the end."""

    recognize: tuple[NamedPass, ...] = ()  # before common subexpressions get names, which would hide the parts
    finish: tuple[NamedPass, ...] = ()  # after the common passes: on the final order and the final names


@dataclass(frozen=True, slots=True)
class Emission:
    """How a target writes an operator: by the phases of its arguments, as an update in place, and what it calls."""

    forms: Mapping[str, Pattern]
    in_place: Pattern | None = None
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a generated file comes from: the spec's path, as messages show it, and its text; never a clock."""

    path: str
    text: str

    @staticmethod
    def of(source: Source) -> Origin:
        return Origin(source.path, source.text)

    @property
    def digest(self) -> str:
        """A hash of the text, in 16 digits."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Target:
    """A target.

    Attributes:
        name: what commands call it.
        rewrites: its passes beside the common ones.
        reserved: names that mean something in its code.
        emission: the text of each operator; one that is not in it cannot be written.
        render: the text of a program after all passes.
    """

    name: str
    rewrites: Rewrites
    reserved: ReservedNames
    emission: Mapping[str, Emission]
    render: Callable[[ir.Program, Origin], str]
