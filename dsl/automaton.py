"""The LALR automaton: lexemes in, one at a time; values built by a builder out.

It knows tables and stacks, nothing of specs. It never recurses, so that the depth of the input
costs memory only. A refused lexeme leaves it as it was; what to do then is the parser's business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from optforge.dsl.lexer import Lexeme
from optforge.dsl.tables import Production, Tables

END = "$END"


class Value(NamedTuple):
    """What stands on the stack: a lexeme or something built, where it starts and ends, and its height as a tree."""

    content: Any
    start: int
    end: int
    height: int


class Builder(Protocol):
    """Makes values; ``levels`` names the reductions whose values are one level higher than their parts."""

    levels: frozenset[str]

    def build(self, make: str, start: int, end: int, height: int, children: list[Any]) -> Any:
        """The value of a reduction, from the values of its parts."""


@dataclass(slots=True)
class Automaton:
    """One parse. ``states`` has one entry more than ``values``."""

    tables: Tables
    builder: Builder
    states: list[int]
    values: list[Value]

    @classmethod
    def begin(cls, tables: Tables, builder: Builder, start: str) -> Automaton:
        return cls(tables, builder, [tables.starts[start]], [])

    def copy(self) -> Automaton:
        """An independent parse that stands where this one does; the values themselves are shared."""
        return replace(self, states=list(self.states), values=list(self.values))

    def accepts(self, kind: str) -> bool:
        """Whether a lexeme of this kind would be taken, found out on the states alone."""
        rows, states = self.tables.states, self.states
        # The stack during the trial is states[:kept] and then pushed: copying it all would make depth quadratic.
        kept, pushed = len(states), list[int]()
        while (action := rows[pushed[-1] if pushed else states[kept - 1]].get(kind)) is not None and action < 0:
            production = self.tables.productions[-1 - action]
            taken = min(production.size, len(pushed))
            del pushed[len(pushed) - taken :]
            kept -= production.size - taken
            pushed.append(rows[pushed[-1] if pushed else states[kept - 1]][production.origin])
            if kind == END and pushed[-1] in self.tables.ends.values():
                return True
        return action is not None

    def expected(self) -> frozenset[str]:
        """The kinds of lexemes that would be taken (the lower-case symbols of a state are no lexemes)."""
        row = self.tables.states[self.states[-1]]
        return frozenset(kind for kind in row if kind.isupper() and self.accepts(kind))

    def feed(self, lexeme: Lexeme) -> None:
        """Take a lexeme that is known to be accepted."""
        rows, productions, states, kind = self.tables.states, self.tables.productions, self.states, lexeme.kind
        while (action := rows[states[-1]][kind]) < 0:
            production = productions[-1 - action]
            if production.unit:
                states[-1] = rows[states[-2]][production.origin]
            else:
                self._reduce(production)
            if kind == END and states[-1] in self.tables.ends.values():
                return
        states.append(action)
        self.values.append(Value(lexeme, lexeme.start, lexeme.end, 0))

    def _reduce(self, production: Production) -> None:
        states, first = self.states, len(self.values) - production.size
        parts = self.values[first:]
        del self.values[first:], states[first + 1 :]
        self.values.append(self._combine(production, parts))
        states.append(self.tables.states[states[-1]][production.origin])

    def _combine(self, production: Production, parts: list[Value]) -> Value:
        if parts:
            start, end = parts[0].start, parts[-1].end
        else:
            start = end = self.values[-1].end if self.values else 0
        height = max((part.height for part in parts), default=0)
        if production.make == "list":
            return Value(_extend_list(production.shape, parts), start, end, height)
        children = _arrange(production.shape, parts)
        if production.make == "pass":
            return Value(children[0], start, end, height)
        height += production.make in self.builder.levels
        return Value(self.builder.build(production.make, start, end, height, children), start, end, height)


@dataclass(frozen=True, slots=True)
class _Repetition:
    """A list in the making, linked to the part before it, so that growing it changes nothing a copy still sees."""

    before: _Repetition | None
    items: list[Any]


def _extend_list(shape: str, parts: list[Value]) -> _Repetition:
    if shape.startswith("s"):
        return _Repetition(parts[0].content, _arrange(shape[1:], parts[1:]))
    return _Repetition(None, _arrange(shape, parts))


def _flatten(repetition: _Repetition | None) -> list[Any]:
    pieces = []
    while repetition is not None:
        pieces.append(repetition.items)
        repetition = repetition.before
    return [item for piece in reversed(pieces) for item in piece]


def _arrange(shape: str, parts: list[Value]) -> list[Any]:
    children: list[Any] = []
    position = 0
    for letter in shape:
        if letter == "n":
            children.append(None)
            continue
        if letter == "k":
            children.append(parts[position].content)
        elif letter == "s":
            children += _flatten(parts[position].content)
        position += 1
    return children
