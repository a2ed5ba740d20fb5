"""What equations and functions are called: data, so that nobody has to look into text to find out what a name is.

A name is a path: an equation that the spec wrote has one segment, what a function left behind that was called in it
has more. Of several that would be the same, later ones are numbered. Names become text where somebody reads them: the
printer writes them so that they read back, a target as the words of its language, a state as checkpoints have it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from optforge.dsl import ast

GIVEN_MARK = "given "


class Segment(NamedTuple):
    """One word of a path, and which one of several it is."""

    word: str
    number: int = 1


@dataclass(frozen=True, slots=True)
class EquationName:
    """What tells an equation from the others of its function.

    ``scope`` is empty but where the equations of several functions are put together: there it says whose this one is.
    ``layer`` is the wrapper that the equation stands in, which tells it from those of the optimizer that is wrapped.
    """

    path: tuple[Segment, ...]
    scope: str = ""
    layer: str = ""

    @classmethod
    def of(cls, *words: str, scope: str = "", layer: str = "") -> EquationName:
        """The name of a path of words, none of them numbered."""
        return cls(tuple(map(Segment, words)), scope, layer)

    @property
    def word(self) -> str:
        """What the spec calls it, in the place where it is written."""
        return self.path[-1].word

    @property
    def shown(self) -> str:
        """What messages and tables call it: its word, behind that of its wrapper."""
        return f"{self.layer}.{self.word}" if self.layer else self.word

    @property
    def is_written(self) -> bool:
        """Whether an equation of the spec can be called so: by one word, which not every name of a state is."""
        return self.path == (Segment(self.word),) and self.word.isidentifier()

    @property
    def root(self) -> EquationName:
        """The equation inside of which this one came about; itself if the spec wrote it."""
        return replace(self, path=self.path[:1])

    @property
    def length(self) -> int:
        """How much there is to read: words, and numbers where there are some."""
        return sum(1 + (segment.number > 1) for segment in self.path) + bool(self.layer)

    def inside(self, word: str) -> EquationName:
        """The name of what this equation has inside."""
        return replace(self, path=(*self.path, Segment(word)))

    def numbered(self, number: int) -> EquationName:
        """The one of several of this name that has the number."""
        return replace(self, path=(*self.path[:-1], self.path[-1]._replace(number=number)))


class Task(Enum):
    """What a function is there for."""

    UPDATE = "update"  # a step or event itself, a schedule or a penalty
    SUMS = "sums"  # what is summed up before it can run
    WHOLE = "whole"  # what the owners of whole matrices compute of it
    FIRST = "first"  # the first values of states
    PAST = "past"  # a state or hyper, out of those of an older checkpoint
    CONDITION = "condition"  # what hypers must satisfy


@dataclass(frozen=True, slots=True)
class FunctionName:
    """Of which machine a function is (``step``, an event, ...), for which task, and which one of several of these."""

    machine: str = ""
    task: Task = Task.UPDATE
    number: int = 1


def free_name_among(taken: Container[object], wanted: EquationName) -> EquationName:
    """The name itself, or the first with a number that is not taken."""
    name, number = wanted, wanted.path[-1].number
    while name in taken:
        number += 1
        name = wanted.numbered(number)
    return name


# Marks: what a node was in the spec, where functions have been written out. They change no meaning, and nothing is lost
# where a pass drops them: who prints a program for people finds the calls again that they mark.


class Mark:
    """What a node was in the spec."""


@dataclass(frozen=True, slots=True, eq=False)
class ParameterMark(Mark):
    """The node stands for a parameter in one call of a function, and was marked with ``before`` outside of it."""

    name: str
    call: object
    before: Mark | None


@dataclass(frozen=True, slots=True, eq=False)
class CallMark(Mark):
    """The node is what one call of a function came to, and was marked with ``before`` inside of it."""

    function: ast.Function
    call: object
    before: Mark | None


# As text


SEGMENT = re.compile(r"(?:([^\W\d]\w*)|'([^']*)')(?:\.(\d+))?")
FUNCTION = re.compile(r"(\w*)(?:\.([a-z]+))?(?:\.(\d+))?")
NAME = re.compile(rf"(?:(\w+):)?(?:(\w+)\$)?({SEGMENT.pattern}(?:\.{SEGMENT.pattern})*)")


def name_text(name: EquationName) -> str:
    """What dumps say: ``m.s.2`` for the second ``s`` inside of ``m``, ``step:m`` for an ``m`` of the step.

    An ``m`` of a wrapper is ``Lookahead$m``.
    """
    path = [repr(word) if not word.isidentifier() else word for word, _ in name.path]
    path = [word if number == 1 else f"{word}.{number}" for word, (_, number) in zip(path, name.path, strict=True)]
    return (f"{name.scope}:" if name.scope else "") + (f"{name.layer}$" if name.layer else "") + ".".join(path)


def read_name(text: str) -> EquationName:
    """The name that a dump says; ValueError for text that is none."""
    match = NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"this is no name: {text}")
    path = (Segment(word or quoted, int(number or 1)) for word, quoted, number in SEGMENT.findall(match[3]))
    return EquationName(tuple(path), match[1] or "", match[2] or "")


def function_text(name: FunctionName) -> str:
    """What dumps say: ``step``, ``step.sums.2`` for the second one that sums up for it, ``.first`` for no machine's."""
    task = "" if name.task is Task.UPDATE else f".{name.task.value}"
    return f"{name.machine}{task}" + (f".{name.number}" if name.number > 1 else "")


def read_function_name(text: str) -> FunctionName:
    """The name of a function that a dump says; ValueError for text that is none."""
    match = FUNCTION.fullmatch(text)
    if match is None:
        raise ValueError(f"this is no name of a function: {text}")
    return FunctionName(match[1], Task(match[2] or "update"), int(match[3] or 1))


def given_text(name: str) -> str:
    """What an event is given, among the names of states: none of these has a space."""
    return f"{GIVEN_MARK}{name}"


def read_given(text: str) -> str | None:
    """The reverse of `given_text`; None for another name."""
    return text.removeprefix(GIVEN_MARK) if text.startswith(GIVEN_MARK) else None


def one_word(name: EquationName | str) -> str:
    """What code says, where a name has letters alone: ``m_s_2``; of a state's name, or of one that a dump says, too."""
    if isinstance(name, str):
        return re.sub(r"\W+", "_", name.strip("'"))
    words = [word for word in (name.scope, name.layer) if word]
    for word, number in name.path:
        words += [one_word(word), str(number)] if number > 1 else [one_word(word)]
    return "_".join(words)
