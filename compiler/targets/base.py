"""What a target is: everything that the compiler has to know of it.

A target rewrites functions after the common passes or between them, has names of its own, and writes what is left.
Adding one is a folder with such a record; nothing in front of it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from optforge.compiler.frontend.reporting import ReservedNames
from optforge.compiler.ir import nodes as ir
from optforge.dsl.source import Source

Pass = Callable[[ir.Function], ir.Function]
NamedPass = tuple[str, Pass]


@dataclass(frozen=True, slots=True)
class Rewrites:
    """The passes of a target: where it recognizes what it has in one, and what it does at the beginning and the end.

    What is read and not run is not ``is_arranged`` for that: its equations stay those of the spec, in the spec's order.
    """

    outline: tuple[NamedPass, ...] = ()  # before all others, while everything is as the spec was written out
    recognize: tuple[NamedPass, ...] = ()  # before common subexpressions get names, which would hide the parts
    is_arranged: bool = True  # common subexpressions get names, and equations an order in which they can be computed
    finish: tuple[NamedPass, ...] = ()  # after the common passes: on the final order and the final names


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
        render: the text of a program after all passes.
    """

    name: str
    rewrites: Rewrites
    reserved: ReservedNames
    render: Callable[[ir.Program, Origin], str]


def roles_text(rule: ir.Rule) -> str:
    """The roles of a rule's parameters in words: "matrix and conv"."""
    return ", ".join(rule.roles[:-1]) + " and " + rule.roles[-1] if len(rule.roles) > 1 else "".join(rule.roles)
