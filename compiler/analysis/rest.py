"""Where a rule stands still: weights of zero that stay so, and steps with lr = 0 that leave every weight as it is.

Takes a rule of a checked program. Both questions are put to the equations: which values are 0, or the weight itself,
when some inputs are 0 and all others finite. What they cannot tell counts as neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import dependencies, sort_topologically
from optforge.compiler.ir.names import EquationName

# Operators that give 0 where their first argument is 0, where any is, and where all are.
OF_FIRST = {
    *("neg", "transpose", "fill", "sqrt", "abs", "sign", "square", "tanh", "atan", "sin", "floor"),
    *("round", "log1p", "sum", "mean", "norm", "amax", "amin", "trace", "orthogonalize", "div", "pow"),
}
OF_ANY = {"mul", "matmul", "dot"}
OF_ALL = {"add", "sub", "min", "max"}
OF_POSITIVE = {"add", "mul", "div", "sqrt", "pow", "min"}  # positive where all arguments are, and so not negative
NEVER_NEGATIVE = {"square", "abs", "norm", "sqrt", "exp"}
POSITIVE = (ir.InputSource.STEP, ir.InputSource.DIMENSION)


def keeps_zero(rule: ir.Rule) -> bool:
    """Whether a weight of zeros stays zero whatever its gradients are.

    So it does under a method that keeps the norm of a weight: a norm that is remembered from a weight of 0 is 0.
    """
    first = Values(rule.initial, {ir.WEIGHT}) if rule.initial else None
    zeros = {m.name for m in rule.states if first is None or first.starts_at_zero(m.name)}
    while True:
        step = Values(rule.update, {ir.WEIGHT, *((ir.InputSource.STATE, name) for name in zeros)})
        kept = {name for name in zeros if name not in step.outputs or step.is_zero(step.outputs[name])}
        if kept == zeros:
            return step.is_zero(step.outputs["weight"])
        zeros = kept


def moves_at_rest(rule: ir.Rule) -> bool:
    """Whether a step with lr = 0 may change the weight, be it by rounding."""
    step = Values(rule.update, {(ir.InputSource.HYPER, "lr")})
    return not step.is_weight(step.outputs["weight"])


class Values:
    """The values of a function of whose inputs these are 0."""

    def __init__(self, function: ir.Function, zeros: Collection[ir.Key]) -> None:
        self.zeros = zeros
        values = {equation.name: equation.value for equation in function.equations}
        order, _ = sort_topologically(dependencies(function.equations), values)
        self.equations = {name: values[name] for name in order}
        self.outputs = {output.name: output.value for output in function.outputs}
        self.known: dict[tuple[Callable[[ir.Expr], bool], EquationName], bool] = {}

    def defined(self, question: Callable[[ir.Expr], bool], name: EquationName) -> bool:
        """The answer for the value of an equation; what it needs is asked for before it, however long the chain."""
        if (question, name) not in self.known:
            for each, value in self.equations.items():
                self.known[question, each] = question(value)
        return self.known[question, name]

    def starts_at_zero(self, state: str) -> bool:
        """Whether the function, which gives first values, gives this state none but 0."""
        return state not in self.outputs or self.is_zero(self.outputs[state])

    def is_zero(self, expr: ir.Expr) -> bool:
        match expr:
            case ir.Literal():
                return expr.value == 0 and not isinstance(expr.value, bool)
            case ir.Input():
                return expr.key in self.zeros
            case ir.Ref():
                return self.defined(self.is_zero, expr.name)
            case ir.Select():
                return self.is_zero(expr.then) and self.is_zero(expr.otherwise)
            case ir.Apply(operator=name, arguments=(first, *_)) if name in OF_FIRST:
                return self.is_zero(first)
            case ir.Apply(operator=name, arguments=(left, right, *_)) if name in OF_ANY:
                return self.is_zero(left) or self.is_zero(right)
            case ir.Apply(operator="min", arguments=arguments) if any(map(self.is_zero, arguments)):
                return all(map(self.is_never_negative, arguments))
            case ir.Apply(operator=name, arguments=arguments) if name in OF_ALL:
                return all(map(self.is_zero, arguments))
            case _:
                return False

    def is_positive(self, expr: ir.Expr) -> bool:
        """Whether it is above 0, as far as literals, the step count and dimensions show."""
        match expr:
            case ir.Literal():
                return isinstance(expr.value, float) and expr.value > 0
            case ir.Input():
                return expr.source in POSITIVE
            case ir.Ref():
                return self.defined(self.is_positive, expr.name)
            case ir.Apply(operator=name, arguments=arguments) if name in OF_POSITIVE:
                return all(map(self.is_positive, arguments))
            case ir.Apply(operator="max", arguments=arguments):
                return any(map(self.is_positive, arguments))
            case _:
                return False

    def is_never_negative(self, expr: ir.Expr) -> bool:
        """Whether it is 0 or above, as far as its form shows."""
        if self.is_zero(expr) or self.is_positive(expr):
            return True
        match expr:
            case ir.Ref():
                return self.defined(self.is_never_negative, expr.name)
            case ir.Select():
                return self.is_never_negative(expr.then) and self.is_never_negative(expr.otherwise)
            case ir.Apply(operator=name) if name in NEVER_NEGATIVE:
                return True
            case ir.Apply(operator="div", arguments=(left, right)):  # 0 / 0 is neither
                return self.is_never_negative(left) and self.is_positive(right)
            case ir.Apply(operator="max", arguments=arguments) if any(map(self.is_never_negative, arguments)):
                return True
            case ir.Apply(operator=name, arguments=arguments) if name in OF_POSITIVE:
                return all(map(self.is_never_negative, arguments))
            case _:
                return False

    def is_one(self, expr: ir.Expr) -> bool:
        match expr:
            case ir.Literal():
                return expr.value == 1 and not isinstance(expr.value, bool)
            case ir.Ref():
                return self.defined(self.is_one, expr.name)
            case ir.Apply(operator="add" | "sub", arguments=(left, right)):
                return self.is_one(left) and self.is_zero(right)
            case ir.Apply(operator="mul" | "div", arguments=(left, right)):
                return self.is_one(left) and self.is_one(right)
            case ir.Apply(operator="max", arguments=arguments) if any(map(self.is_one, arguments)):
                return all(self.is_one(each) or self.is_zero(each) for each in arguments)
            case _:
                return False

    def is_weight(self, expr: ir.Expr) -> bool:
        """Whether it is the weight to the last bit."""
        match expr:
            case ir.Input():
                return expr.key == ir.WEIGHT
            case ir.Ref():
                return self.defined(self.is_weight, expr.name)
            case ir.Select():
                return self.is_weight(expr.then) and self.is_weight(expr.otherwise)
            case ir.Apply(operator="add" | "sub", arguments=(left, right)):
                return self.is_weight(left) and self.is_zero(right)
            case ir.Apply(operator="div", arguments=(left, right)):
                return self.is_weight(left) and self.is_one(right)
            case ir.Apply(operator="mul", arguments=(left, right)):
                return (self.is_one(left) and self.is_weight(right)) or (self.is_weight(left) and self.is_one(right))
            case _:
                return False
