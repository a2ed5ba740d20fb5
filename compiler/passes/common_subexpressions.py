"""Common subexpressions: a tensor that is computed twice gets a name and is computed once.

Only values that are needed whatever is chosen are shared; what stands in the branch of a choice
made in Python stays there, so that a branch not taken costs nothing. Python scalars are cheap and
stay where they read best.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName, Segment, free_name_among
from optforge.compiler.ir.types import Kind

Key = tuple[object, ...]


def share_subexpressions(function: ir.Function) -> ir.Function:
    """The function with one equation for each tensor expression that occurs more than once."""
    return Sharing(function).shared()


class Sharing:
    """Numbers equal expressions equally, counts from how many places each is read, names the shared ones."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.numbers: dict[Key, int] = {}
        self.by_node: dict[int, int] = {}  # by identity: the function keeps its nodes alive
        self.reads: Counter[int] = Counter()
        self.strict: set[int] = set()
        self.named: dict[int, EquationName] = {}
        self.added: dict[EquationName | None, list[ir.Equation]] = {}  # before these equations, or at the end
        self.taken = {equation.name for equation in function.equations}
        self.seen: set[int] = set()

    def number(self, expr: ir.Expr) -> int:
        """The same number for equal expressions."""
        if id(expr) not in self.by_node:
            self.by_node[id(expr)] = self._number(expr)
        return self.by_node[id(expr)]

    def _number(self, expr: ir.Expr) -> int:
        match expr:
            case ir.Apply():
                key: Key = ("apply", expr.operator, expr.type, *(self.number(child) for child in expr.arguments))
            case ir.Select():
                key = ("select", expr.type, *(self.number(child) for child in ir.children(expr)))
            case _:
                key = ("leaf", expr)
        return self.numbers.setdefault(key, len(self.numbers))

    def shared(self) -> ir.Function:
        for equation in self.function.equations:
            self.named.setdefault(self.number(equation.value), equation.name)
        for root in self._roots():
            self.count(root, strict=True)
        equations: list[ir.Equation] = []
        for equation in self.function.equations:
            changed = replace(equation, value=self._right_side(equation))
            equations += [*self.added.pop(equation.name, []), changed]
        outputs = tuple(replace(output, value=self.rewritten(output.value, None)) for output in self.function.outputs)
        return replace(self.function, equations=(*equations, *self.added.pop(None, [])), outputs=outputs)

    def _right_side(self, equation: ir.Equation) -> ir.Expr:
        """The equation's value with shared parts as names; a name altogether where another equation has it."""
        owner = self.named.get(self.number(equation.value), equation.name)
        if owner != equation.name and self.is_shareable(equation.value):
            return ir.Ref(owner, type=equation.value.type, span=equation.value.span)
        return ir.map_children(lambda child: self.rewritten(child, equation.name), equation.value)

    def _roots(self) -> list[ir.Expr]:
        return [equation.value for equation in self.function.equations] + [o.value for o in self.function.outputs]

    def count(self, expr: ir.Expr, strict: bool) -> None:
        number = self.number(expr)
        self.reads[number] += 1
        if strict:
            self.strict.add(number)
        if number in self.seen:
            return
        if strict:
            self.seen.add(number)
        for position, child in enumerate(ir.children(expr)):
            lazy = isinstance(expr, ir.Select) and expr.condition.type.is_scalar_phase and position > 0
            self.count(child, strict and not lazy)

    def is_shareable(self, expr: ir.Expr) -> bool:
        number = self.number(expr)
        return (
            isinstance(expr, ir.Apply | ir.Select)
            and not expr.type.is_scalar_phase
            and expr.type.kind is Kind.NUMBER
            and not (isinstance(expr, ir.Apply) and expr.operator in ("fill", "transpose", "leading"))
            and number in self.strict
        )

    def rewritten(self, expr: ir.Expr, user: EquationName | None) -> ir.Expr:
        number = self.number(expr)
        if self.is_shareable(expr):
            if number in self.named:
                return ir.Ref(self.named[number], type=expr.type, span=expr.span)
            if self.reads[number] > 1:
                name = self.fresh(expr)
                self.named[number] = name
                value = ir.map_children(lambda child: self.rewritten(child, user), expr)
                self.added.setdefault(user, []).append(ir.Equation(name, value, expr.span))
                return ir.Ref(name, type=expr.type, span=expr.span)
        return ir.map_children(lambda child: self.rewritten(child, user), expr)

    def fresh(self, expr: ir.Expr) -> EquationName:
        """A name made of the operator and what it is applied to: ``norm.grad``."""
        operator = expr.operator if isinstance(expr, ir.Apply) else "choice"
        leaf = next((node.name for node in ir.walk(expr) if isinstance(node, ir.Ref | ir.Input)), "value")
        of = leaf if isinstance(leaf, EquationName) else EquationName.of(leaf)
        name = free_name_among(self.taken, replace(of, path=(Segment(operator), *of.path)))
        self.taken.add(name)
        return name
