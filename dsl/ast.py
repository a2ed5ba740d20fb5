"""The surface tree: what a spec says, word for word, before any name has a meaning.

Nodes are frozen; ``span`` takes no part in equality, so two equal texts at different places
are equal trees. Numbers keep their spelling. Parentheses leave no node: the printer puts them
back where the operator table asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from optforge.dsl.source import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands in a spec."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Identifier(Node):
    """A name together with the place where it is written."""

    name: str


# Expressions


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal as spelled: ``1e-8``, ``3`` or ``inf``."""

    spelling: str

    @property
    def value(self) -> float:
        return float(self.spelling)


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string; ``value`` is what stands between the quotes, as written (the language has no escapes)."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A value looked up by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Super(Node):
    """``super.name``: what the base computes under that name."""

    name: Identifier


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """``-x``, ``not x`` or ``x'``; ``operator`` is ``"-"``, ``"not"`` or ``"'"``."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """``operator`` is one of ``+ - * / @ ^ and or``."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Comparison(Node):
    """A chain ``first op expr op expr ...`` with operators among ``< <= > >= == !=``."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, slots=True)
class Member(Node):
    """``item in (a, b, c)``."""

    item: Expression
    choices: Tuple


@dataclass(frozen=True, slots=True)
class Select(Node):
    """``then if condition else otherwise``."""

    condition: Expression
    then: Expression
    otherwise: Expression


@dataclass(frozen=True, slots=True)
class Tuple(Node):
    """``(a, b, ...)``, two items or more."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Call(Node):
    """``function(a, b, key=c)``; keywords come after the positional arguments."""

    function: Identifier
    arguments: tuple[Expression, ...]
    keywords: tuple[tuple[Identifier, Expression], ...] = ()


@dataclass(frozen=True, slots=True)
class Repetition(Node):
    """How often the function of a pipe is applied: ``times last``, or ``for counter in first..last``, ends included."""

    last: Expression
    counter: Identifier | None = None
    first: Expression | None = None


@dataclass(frozen=True, slots=True)
class Pipe(Node):
    """``value |> f(a)`` or ``value |> f``; a bare name is a ``Call`` with ``bare=True``."""

    value: Expression
    call: Call
    bare: bool = False
    repetition: Repetition | None = None


Expression: TypeAlias = (
    Number | Boolean | Text | Name | Super | Unary | Binary | Comparison | Member | Select | Tuple | Call | Pipe
)


# Statements


@dataclass(frozen=True, slots=True)
class Binding(Node):
    """``target = value``, or ``shared target = value``: one value for all parameters of the rule."""

    target: Identifier
    value: Expression
    shared: bool = False

    @property
    def head(self) -> str:
        """What stands before the ``=``."""
        return f"shared {self.target.name}" if self.shared else self.target.name


@dataclass(frozen=True, slots=True)
class Update(Node):
    """``target <- value``."""

    target: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Claim(Node):
    """``claim promise``."""

    promise: Expression


@dataclass(frozen=True, slots=True)
class Was(Node):
    """``target was value``: the state of that name, made of the states of an older version of the spec."""

    target: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Dimension(Node):
    """``dim name = size``: a third size of values, beside rows and columns."""

    name: Identifier
    size: Expression


Statement: TypeAlias = Binding | Update | Claim | Was | Dimension


# Declarations. ``doc`` is the text between the quotes, unindented as written; None without one.


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a function or an event; without a default it must be given.

    One of an event that every parameter of the optimizer has its own value of has a ``shape``: `k: cols x cols`.
    """

    name: Identifier
    default: Expression | None = None
    shape: tuple[Identifier, Identifier] | None = None


@dataclass(frozen=True, slots=True)
class Function(Node):
    """``def name(parameters) = result``, or a block of bindings that ends in ``return result``."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    body: tuple[Binding | Update, ...]
    result: Expression
    doc: Text | None = None
    is_block: bool = False


@dataclass(frozen=True, slots=True)
class Taken(Node):
    """``from file: names``: functions and optimizers of another file, by its name without ``.opt``."""

    file: Identifier
    names: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Hyper(Node):
    """``hyper name = default was before where condition "doc"``; without a default it must be given.

    ``before`` is its value in terms of the hyperparameters of an older version of the spec.
    """

    name: Identifier
    default: Expression | None = None
    condition: Expression | None = None
    doc: Text | None = None
    before: Expression | None = None


@dataclass(frozen=True, slots=True)
class Rule(Node):
    """``for roles as orientation:`` with its equations, claims and what its states were, in source order."""

    roles: tuple[Identifier, ...]
    statements: tuple[Statement, ...]
    doc: Text | None = None
    orientation: Identifier | None = None


@dataclass(frozen=True, slots=True)
class Delegate(Node):
    """``for roles: use optimizer(key=value)``."""

    roles: tuple[Identifier, ...]
    optimizer: Identifier
    arguments: tuple[Expression, ...] = ()
    keywords: tuple[tuple[Identifier, Expression], ...] = ()


@dataclass(frozen=True, slots=True)
class Event(Node):
    """``on name(parameters):`` with its equations."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    statements: tuple[Statement, ...]
    doc: Text | None = None


OptimizerMember: TypeAlias = Hyper | Rule | Delegate | Event


@dataclass(frozen=True, slots=True)
class Optimizer(Node):
    """``optimizer name extends base:`` with its members in source order.

    In place of a base there may be a composition, ``optimizer name = Muon |> Grokfast(alpha=0.95)``, whose block may be
    missing.
    """

    name: Identifier
    base: Identifier | None
    members: tuple[OptimizerMember, ...]
    doc: Text | None = None
    composition: Expression | None = None


@dataclass(frozen=True, slots=True)
class Wrapper(Node):
    """``wrapper name:`` with its members in source order; ``step`` in a rule calls the optimizer that is wrapped."""

    name: Identifier
    members: tuple[OptimizerMember, ...]
    doc: Text | None = None


@dataclass(frozen=True, slots=True)
class Schedule(Node):
    """``schedule name:`` with its hypers, equations and claims in source order."""

    name: Identifier
    members: tuple[Hyper | Statement, ...]
    doc: Text | None = None


@dataclass(frozen=True, slots=True)
class Penalty(Node):
    """``penalty name:`` with its hypers and rules in source order."""

    name: Identifier
    members: tuple[Hyper | Rule | Delegate, ...]
    doc: Text | None = None


Item: TypeAlias = Function | Optimizer | Wrapper | Schedule | Penalty | Taken


@dataclass(frozen=True, slots=True)
class Comment(Node):
    """``text`` from its ``#`` to the end of the line; ``own_line`` when nothing stands before it."""

    text: str
    own_line: bool


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole spec file. Comments take no part in equality."""

    doc: Text | None
    items: tuple[Item, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
