"""Shared equations: values that all parameters of a rule have in common, with no parameter's own values in them.

In: the typed step of a rule. What a shared equation reads is the same for every parameter: numbers, hypers, sums over
parameters (``total``), other values that are so, and shared values of the step before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import SCALAR, Kind
from optforge.compiler.streams.state_names import root_of
from optforge.dsl import errors


class SharedValues:
    """What of a machine's equations is shared; no equation may need itself within a step."""

    def __init__(self, function: ir.Function) -> None:
        self.equations = {equation.name: equation for equation in function.equations}
        self._owned: dict[EquationName, ir.Expr | None] = {}  # what first makes it a value of each parameter

    def has(self, stream: ir.Ref | ir.Input) -> bool:
        """Whether a stream is shared."""
        found = root_of(stream, self.equations)
        return isinstance(found, ir.Ref) and found.name in self.equations and self.equations[found.name].shared

    def check(self, report: Report) -> None:
        """Reports shared equations that are no shared values."""
        for equation in self.equations.values():
            if not equation.shared:
                continue
            found, word = equation.value, equation.name.root.word
            if found.type.kind is not Kind.NUMBER or found.type.shape not in (SCALAR, None):
                report(errors.not_shared(f"`{word}` is shared, and so one number", equation.span))
            elif (own := self._own_part(found)) is not None:
                report(errors.not_shared(f"`{word}` is shared, and this is {described(own)}", own.span))

    def hypers(self, stream: ir.Ref | ir.Input, initial: ir.Expr) -> tuple[str, ...]:
        """The hypers that a shared stream follows from, beside what it sums up, in the order in which it reads them."""
        waiting, seen, found = [initial, ir.Ref(root_name(stream, self.equations))], set[EquationName](), list[str]()
        while waiting:
            for node in outside_of_sums(waiting.pop(0)):
                if isinstance(node, ir.Input) and node.source is ir.InputSource.HYPER:
                    found.append(node.name)
                elif isinstance(node, ir.Ref) and node.name not in seen:
                    seen.add(node.name)
                    waiting.append(self.equations[node.name].value)
        return tuple(dict.fromkeys(found))

    def _own_part(self, expr: ir.Expr) -> ir.Expr | None:
        """The first part of an expression that is a value of each parameter."""
        for node in outside_of_sums(expr):
            match node:
                case ir.Input(source=source) if source is not ir.InputSource.HYPER:
                    return node
                case ir.Latest():
                    return node
                case ir.Ref(name=name) if not self.equations[name].shared and self._is_own(name):
                    return node
                case ir.Prev(stream=stream) if not self.has(stream):
                    return node
        return None

    def _is_own(self, name: EquationName) -> bool:
        if name not in self._owned:
            self._owned[name] = None
            self._owned[name] = self._own_part(self.equations[name].value)
        return self._owned[name] is not None


def root_name(stream: ir.Ref | ir.Input, equations: Mapping[EquationName, ir.Equation]) -> EquationName:
    found = root_of(stream, dict(equations))
    assert isinstance(found, ir.Ref)
    return found.name


def outside_of_sums(expr: ir.Expr) -> Iterator[ir.Expr]:
    """The nodes of an expression that are not summed up over parameters, in reading order."""
    yield expr
    if not (isinstance(expr, ir.Apply) and expr.operator == "total"):
        for child in ir.children(expr):
            yield from outside_of_sums(child)


def described(own: ir.Expr) -> str:
    """What a value of each parameter is, in words."""
    match own:
        case ir.Input(name=name, source=ir.InputSource.DIMENSION):
            return f"`{name}` of each parameter"
        case ir.Prev(stream=ir.Ref(name=name)) | ir.Ref(name=name) | ir.Latest(stream=ir.StreamRef(name=name)):
            return f"the `{name.root.word}` of each parameter"
        case ir.Input(name=name) | ir.Prev(stream=ir.Input(name=name)):
            return f"the `{name}` of each parameter"
        case other:
            raise AssertionError(f"{other} is no value of a parameter")
