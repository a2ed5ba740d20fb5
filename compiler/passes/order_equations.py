"""An order in which the equations can be computed, as close to the spec's as causality allows."""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import dependencies, sort_topologically
from optforge.compiler.ir.names import EquationName, free_name_among


def schedule_equations(function: ir.Function) -> ir.Function:
    """The function with each equation after those it needs, and every output an equation's name or an input.

    The result ``weight`` becomes the last equation.
    """
    named = name_outputs(function)
    order, _ = sort_topologically(dependencies(named.equations), [equation.name for equation in named.equations])
    by_name = {equation.name: equation for equation in named.equations}
    return replace(named, equations=tuple(by_name[name] for name in order))


def name_outputs(function: ir.Function) -> ir.Function:
    equations = list(function.equations)
    taken = {equation.name for equation in equations}
    outputs = []
    for output in function.outputs:
        value = output.value
        if isinstance(value, ir.Apply | ir.Select | ir.Literal):
            own = EquationName.of(output.name)
            name = free_name_among(taken, own if own not in taken else own.inside("new"))
            taken.add(name)
            equations.append(ir.Equation(name, value, value.span))
            value = ir.Ref(name, type=value.type, span=value.span)
        outputs.append(replace(output, value=value))
    return replace(function, equations=tuple(equations), outputs=tuple(outputs))
