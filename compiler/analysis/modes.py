"""Which event puts back the weights that another event has replaced.

Takes a rule of a checked program. Two events that write weights belong together if the second, called right after the
first, gives back the weight that there was: as arithmetic alone shows, with the states that the first one has left.
Where each undoes the other, the one that is declared first is the one that begins.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.analysis.normal_form import (
    Atom,
    Former,
    Sum,
    TooLarge,
    collect_terms,
    inverse,
    name_atom,
    single,
)
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName

OPEN = (ir.InputSource.STEP, ir.InputSource.ARGUMENT, ir.InputSource.COMBINED)  # what may differ between two calls
WEIGHT = single(name_atom("stream weight", False))


def with_modes(rule: ir.Rule) -> ir.Rule:
    """The rule with the name of the event that each of its events undoes."""
    undone: dict[str, str] = {}
    for first in rule.events:
        for second in rule.events:
            is_free = first.name not in {*undone, *undone.values()} and second.name not in {*undone, *undone.values()}
            if is_free and undoes(second.update, first.update):
                undone[second.name] = first.name
    return replace(rule, events=tuple(replace(each, undoes=undone.get(each.name, "")) for each in rule.events))


def undoes(second: ir.Function, first: ir.Function) -> bool:
    """Whether the second event, right after the first, gives back the weight that the first has changed."""
    written = [{output.name for output in function.outputs} for function in (first, second)]
    sources = {node.source for function in (first, second) for node in inputs_of(function)}
    if not all("weight" in names for names in written) or sources & {*OPEN}:
        return False
    try:
        return weight_after(first) != WEIGHT and weight_after(after(first, second)) == WEIGHT
    except TooLarge:
        return False


def weight_after(function: ir.Function) -> Sum:
    (value,) = (output.value for output in function.outputs if output.name == "weight")
    return reduce(Former(function).form(value))


def after(first: ir.Function, second: ir.Function) -> ir.Function:
    """The second function on what the first one has left."""
    left = {ir.stored(output.name): rename(output.value) for output in first.outputs}

    def fed(node: ir.Expr) -> ir.Expr:
        return left.get(node.key, node) if isinstance(node, ir.Input) else node

    before = [replace(each, name=earlier(each.name), value=rename(each.value)) for each in first.equations]
    whole = ir.map_expressions(lambda expr: ir.transform(fed, expr), second)
    return replace(whole, equations=(*before, *whole.equations))


def rename(expr: ir.Expr) -> ir.Expr:
    def change(node: ir.Expr) -> ir.Expr:
        return replace(node, name=earlier(node.name)) if isinstance(node, ir.Ref) else node

    return ir.transform(change, expr)


def earlier(name: EquationName) -> EquationName:
    """The name of an equation of the first function among those of the second."""
    return replace(name, scope="first")


def reduce(form: Sum) -> Sum:
    """The sum with each factor that stands beside its own inverse left out, which is right where it is not 0."""
    return collect_terms((without_inverses(product), number) for product, number in form.terms)


def without_inverses(product: tuple[Atom, ...]) -> tuple[Atom, ...]:
    left = list(product)
    for atom in product:
        ((inverted,), _), *_ = inverse(single(atom)).terms
        if atom in left and inverted in left:
            left.remove(atom)
            left.remove(inverted)
    return tuple(left)
