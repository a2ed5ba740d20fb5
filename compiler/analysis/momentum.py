"""Which hyperparameter plays the momentum: the share that the past has in the direction of a step.

Takes a checked optimizer, before any pass has rewritten it. Schedulers that cycle the momentum need one hyper to cycle,
and every method calls it something else: it is the `h` of the first sum `h * prev(m) + x` that the weight is computed
from, where x is the gradient, or what is left of it after scaling and the like. A sum of its squares is no direction.
What wrappers remember of gradients and weights is no momentum: that is the business of the optimizer that they wrap.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName

# Functions of one value that keep its direction in some sense: odd, or a change of form.
ODD = {"neg", "transpose", "fill", "sign", "tanh", "atan", "round", "orthogonalize", "clamp"}


def momentum_hypers(optimizer: ir.Optimizer) -> tuple[str, ...]:
    """The hyper of each rule that has one, in the order of the rules, each once."""
    found = (momentum_of(rule.update) for rule in optimizer.rules)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def momentum_of(step: ir.Function) -> str | None:
    values = {equation.name: equation.value for equation in step.equations}
    own = {output.name for output in step.outputs if not is_of_wrapper(output.value)}
    (weight,) = (output.value for output in step.outputs if output.name == "weight")
    for node in walk_inputs(weight, values):
        if isinstance(node, ir.Apply) and node.operator in ("add", "sub"):
            terms = list(summands(node))
            hypers = [name for term in terms if (name := decay_of(term, own)) is not None]
            if hypers and any(is_direction(term, values) for term in terms):
                return hypers[0]
    return None


def walk_inputs(expr: ir.Expr, values: Mapping[EquationName, ir.Expr]) -> Iterator[ir.Expr]:
    """All that the expression is computed from, what is nearest to it first."""
    seen: set[EquationName] = set()
    level = [expr]
    while level:
        nodes = [node for each in level for node in ir.walk(each)]
        yield from nodes
        names = dict.fromkeys(node.name for node in nodes if isinstance(node, ir.Ref) and node.name not in seen)
        seen |= names.keys()
        level = [values[name] for name in names]


def summands(expr: ir.Expr) -> Iterator[ir.Expr]:
    if isinstance(expr, ir.Apply) and expr.operator in ("add", "sub"):
        for argument in expr.arguments:
            yield from summands(argument)
    else:
        yield expr


def is_of_wrapper(state: ir.Expr) -> bool:
    """Whether what becomes a state is an equation of a wrapper."""
    return isinstance(state, ir.Ref) and bool(state.name.layer)


def decay_of(term: ir.Expr, states: Container[str]) -> str | None:
    """The hyper of a term `h * prev(m)`, where m is one of the states, be it from some step on only."""
    if not isinstance(term, ir.Apply) or term.operator != "mul":
        return None
    factors = [part for each in term.arguments for part in branches(each)]
    sources = {each.source: each.name for each in factors if isinstance(each, ir.Input)}
    return sources.get(ir.InputSource.HYPER) if sources.get(ir.InputSource.STATE) in states else None


def branches(expr: ir.Expr) -> Iterator[ir.Expr]:
    """What the expression is one of."""
    if isinstance(expr, ir.Select):
        yield from branches(expr.then)
        yield from branches(expr.otherwise)
    else:
        yield expr


def is_direction(expr: ir.Expr, values: Mapping[EquationName, ir.Expr]) -> bool:
    """Whether the gradient is a factor of the value, or of a term of it, and once only."""
    match expr:
        case ir.Input():
            return expr.name == "grad" and expr.source is ir.InputSource.STREAM
        case ir.Ref():
            return is_direction(values[expr.name], values)
        case ir.Select():
            return is_direction(expr.then, values) or is_direction(expr.otherwise, values)
        case ir.Apply(operator="add" | "sub"):
            return any(is_direction(each, values) for each in expr.arguments)
        case ir.Apply(operator="mul" | "matmul", arguments=(left, right)):
            return is_direction(left, values) is not is_direction(right, values)
        case ir.Apply(operator=name, arguments=(first, *_)) if name in ODD or name == "div":
            return is_direction(first, values)
        case _:
            return False
