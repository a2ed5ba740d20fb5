"""Values under other names: expressions are the same where they are once names of equations are written out.

In: expressions of one function. Out: a number for each, equal for equal values. A call with an argument that is no name
gives the argument one, so that two calls alike differ in names alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName

BLANK = ir.Literal(0.0, "")


class ValueNumbers:
    """Numbers of the values of a function, whose equations are given."""

    def __init__(self, equations: Mapping[EquationName, ir.Equation]) -> None:
        self._equations = equations
        self._named: dict[EquationName, int] = {}
        self._known: dict[object, int] = {}

    def number(self, expr: ir.Expr) -> int:
        """The number of the value."""
        if isinstance(expr, ir.Ref) and expr.name in self._equations:
            return self._number_of(expr.name)
        inner = tuple(map(self.number, ir.children(expr)))
        node: object = ir.map_children(lambda _: BLANK, expr)
        if isinstance(expr, ir.Literal):
            node = repr(expr.value)  # however it is written
        return self._known.setdefault((node, inner), len(self._known))

    def _number_of(self, name: EquationName) -> int:
        if name not in self._named:
            self._named[name] = self._known.setdefault(name, len(self._known))  # its own, for one that reads itself
            self._named[name] = self.number(self._equations[name].value)
        return self._named[name]
