"""Calls of functions again where the front end has written them out: what has a name in the spec is read by it.

A call is found by the marks that were left. It stays written out where what it gives depends on more than its
arguments, such as a state, which has the name of the equation that it stands in, or ``t``; where a pass has lost
the marks; and where it is short enough to be read as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import slice_function
from optforge.compiler.ir.names import CallMark, EquationName, FunctionName, Mark, ParameterMark
from optforge.compiler.ir.types import Kind, Phase
from optforge.dsl import ast

CALL = "()"  # in place of an operator, with what is called for a mark
SHORT = 5  # a function of at most so many operators is written out


@dataclass(frozen=True, slots=True, eq=False)
class DefinitionMark(Mark):
    """What a call means: a function of its parameters, which are arguments in it; ``settings`` are in its name."""

    function: ast.Function
    parameters: tuple[str, ...]
    settings: tuple[str, ...]
    body: ir.Function


def outline_calls(function: ir.Function) -> ir.Function:
    """The function in which calls stand in place of operators, with their definitions for marks."""
    values = {equation.name: equation.value for equation in function.equations}
    outlined = ir.map_expressions(Outliner(function, values).change, function)
    return slice_function(outlined, outlined.outputs)


@dataclass
class Outliner:
    """Finds the calls in one function."""

    function: ir.Function
    values: Mapping[EquationName, ir.Expr]
    known: dict[int, ir.Expr] = field(default_factory=dict)

    def change(self, node: ir.Expr) -> ir.Expr:
        for mark in marks_of(node):
            if isinstance(mark, CallMark) and (call := self.call(node, mark)):
                return call
        return ir.map_children(self.change, node)

    def call(self, node: ir.Expr, mark: CallMark) -> ir.Apply | None:
        """The call that a node came from, if it can be read as one."""
        if node.type.phase is not Phase.STREAM or not isinstance(node, ir.Apply | ir.Select):
            return None
        body = Body(mark, self.values)
        result = body.inside(node)
        if not body.is_pure or body.operators <= SHORT:
            return None
        name = FunctionName(mark.function.name.name)
        whole = ir.Function(
            name, self.function.universe, tuple(body.equations.values()), (ir.Output("result", result),)
        )
        named = [each.name.name for each in mark.function.parameters]
        parameters = tuple(each for each in named if each in body.arguments)
        settings = tuple(body.settings[each] for each in named if each in body.settings)
        definition = DefinitionMark(mark.function, parameters, settings, outline_calls(body.with_own_names(whole)))
        arguments = tuple(self.change(body.arguments[each]) for each in parameters)
        return ir.Apply(CALL, arguments, type=node.type, span=node.span, mark=definition)


def marks_of(node: ir.Expr) -> Iterator[CallMark | ParameterMark]:
    """The marks of a node, the last one first."""
    mark = node.mark
    while isinstance(mark, CallMark | ParameterMark):
        yield mark
        mark = mark.before


@dataclass
class Body:
    """What one call was written out to, with its parameters in the place of what they stood for."""

    mark: CallMark
    values: Mapping[EquationName, ir.Expr]
    arguments: dict[str, ir.Expr] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    equations: dict[EquationName, ir.Equation] = field(default_factory=dict)
    is_pure: bool = True
    operators: int = 0

    def inside(self, node: ir.Expr) -> ir.Expr:
        """The node as the definition has it."""
        for mark in marks_of(node):
            if isinstance(mark, ParameterMark) and mark.call is self.mark.call:
                if isinstance(node, ir.Literal) and node.type.kind is not Kind.NUMBER:
                    self.settings[mark.name] = str(node.value)
                    break
                self.arguments.setdefault(mark.name, replace(node, mark=mark.before))
                later = later_marks(node, mark)
                return ir.Input(mark.name, ir.InputSource.ARGUMENT, type=node.type, span=node.span, mark=later)
        match node:
            case ir.Ref(name=name):
                self.include(name)
            case ir.Input(source=source):
                self.is_pure &= source is ir.InputSource.DIMENSION
            case ir.Apply() | ir.Select():
                self.operators += 1
            case _:
                pass
        return ir.map_children(self.inside, node)

    def include(self, name: EquationName) -> None:
        """The equation among those of the definition."""
        if name not in self.equations:
            self.equations[name] = ir.Equation(name, ir.Literal(0.0, "0"))
            self.equations[name] = ir.Equation(name, self.inside(self.values[name]))

    def with_own_names(self, whole: ir.Function) -> ir.Function:
        """The definition, in which the function's own equations are called as it calls them."""
        words = {line.target.name for line in self.mark.function.body}
        own: dict[EquationName, EquationName] = {}
        for name in sorted(self.equations, key=lambda each: len(each.path)):
            if name.word in words:
                words.remove(name.word)
                own[name] = EquationName.of(name.word)

        def change(node: ir.Expr) -> ir.Expr:
            return replace(node, name=own.get(node.name, node.name)) if isinstance(node, ir.Ref) else node

        named = tuple(replace(each, name=own.get(each.name, each.name)) for each in whole.equations)
        return ir.map_expressions(lambda expr: ir.transform(change, expr), replace(whole, equations=named))


def later_marks(node: ir.Expr, last: ParameterMark) -> Mark | None:
    """The marks of a node from after that of a parameter on: those of calls inside of the function."""
    later = list(itertools.takewhile(lambda mark: mark is not last, marks_of(node)))
    result: Mark | None = None
    for mark in reversed(later):
        result = replace(mark, before=result)
    return result
