"""What name resolution gives: untyped functions with ``prev`` still in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import FULL, Universe
from optforge.dsl import ast
from optforge.dsl.source import Span


@dataclass(frozen=True, slots=True)
class RawEvent:
    """An event with its own machine and the arguments of its call; ``span`` is its name with these."""

    name: str
    parameters: tuple[ir.Hyper, ...]
    function: ir.Function
    doc: str
    span: Span

    def unseen_by(self, universe: Universe) -> tuple[ir.Hyper, ...]:
        """The arguments that rules for tensors of any shape cannot take: what has not a value for each element."""
        is_matrix = universe is Universe.MATRIX
        return () if is_matrix else tuple(each for each in self.parameters if each.shape not in (None, FULL))


@dataclass(frozen=True, slots=True)
class RawWas:
    """``target was value``; state inputs are those of an older checkpoint.

    An inherited one is about a state that the optimizer at hand need not have any more.
    """

    target: str
    value: ir.Expr
    span: Span
    is_inherited: bool


@dataclass(frozen=True, slots=True)
class RawRule:
    """A rule whose machines still read streams by name: their own by ``prev``, others' latest values.

    ``holes`` are the hypers to which a wrapper around the rule may give other values, each with the one that it has.
    """

    name: str
    roles: tuple[str, ...]
    words: tuple[str, ...]
    universe: Universe
    step: ir.Function
    events: tuple[RawEvent, ...]
    claims: tuple[ir.Claim, ...]
    written: tuple[ir.Written, ...]
    span: Span
    was: tuple[RawWas, ...] = ()
    orientation: str = ""
    holes: Mapping[str, ir.Expr] = field(default_factory=dict)
    rank: ir.Function | None = None  # the size of its own dimension


@dataclass(frozen=True, slots=True)
class RawDeclaration:
    """An optimizer, penalty or schedule (one rule, no roles); ``kind`` says which.

    ``events`` are those that it declares itself, whether any rule has them or not.
    """

    kind: str
    name: str
    doc: str
    hypers: tuple[ir.Hyper, ...]
    requirements: tuple[ir.Requirement, ...]
    rules: tuple[RawRule, ...]
    span: Span
    was: tuple[RawWas, ...] = ()
    events: tuple[ast.Identifier, ...] = ()


@dataclass(frozen=True, slots=True)
class RawProgram:
    """All declarations of a file after name resolution.

    ``wrappers`` are checked, each around a plain optimizer, and nothing is made of them.
    """

    doc: str
    declarations: tuple[RawDeclaration, ...]
    wrappers: tuple[RawDeclaration, ...] = ()
