"""Copies away: names for names, literals and inputs, and names that the compiler made and uses once.

Of several names for one value the shortest path stays, so that ``m = m.s`` leaves ``m``. Names that
the spec wrote stay, because the generated lines should be the spec's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import dependencies, put_in, references, sort_topologically
from optforge.compiler.ir.names import EquationName

# Expressions deeper than this stay apart, so that whatever walks them by recursion comes to an end.
HEIGHT_LIMIT = 40


def propagate_copies(function: ir.Function) -> ir.Function:
    """The function without equations that only rename, and with single uses put in place."""
    return inline_single_uses(merge_aliases(function))


def merge_aliases(function: ir.Function) -> ir.Function:
    values = {equation.name: equation.value for equation in function.equations}
    groups: dict[EquationName, list[EquationName]] = {}
    replacement: dict[EquationName, ir.Expr] = {}
    for equation in function.equations:
        root = equation.value
        while isinstance(root, ir.Ref) and isinstance(values[root.name], ir.Ref):
            root = values[root.name]
        if isinstance(root, ir.Ref):
            final = values[root.name]
            if is_atom(final):
                replacement[equation.name] = final
            else:
                groups.setdefault(root.name, [root.name]).append(equation.name)
        elif is_atom(root):
            replacement[equation.name] = root
    for names in groups.values():
        chosen = min(names, key=lambda name: (name.length, names.index(name)))
        for name in names:
            replacement[name] = ir.Ref(chosen, type=values[names[0]].type)
    return substitute(function, replacement)


def is_atom(expr: ir.Expr) -> bool:
    return isinstance(expr, ir.Literal | ir.Input)


def substitute(function: ir.Function, replacement: dict[EquationName, ir.Expr]) -> ir.Function:
    """Every reference replaced; an equation is renamed to its group's name or dropped."""

    def change(node: ir.Expr) -> ir.Expr:
        if isinstance(node, ir.Ref) and node.name in replacement:
            return replace(replacement[node.name], span=node.span)
        return node

    kept = []
    for equation in function.equations:
        target = replacement.get(equation.name)
        if target is not None and (is_atom(target) or isinstance(equation.value, ir.Ref)):
            continue
        name = target.name if isinstance(target, ir.Ref) else equation.name
        kept.append(replace(equation, name=name, value=ir.transform(change, equation.value)))
    outputs = tuple(replace(output, value=ir.transform(change, output.value)) for output in function.outputs)
    return replace(function, equations=tuple(kept), outputs=outputs)


def inline_single_uses(function: ir.Function) -> ir.Function:
    """Equations that the spec did not write and that have one use take the place of that use."""
    graph = dependencies(function.equations)
    values = {equation.name: equation.value for equation in function.equations}
    uses = Counter(name for value in values.values() for name in references(value))
    uses.update(name for output in function.outputs for name in references(output.value))
    single: dict[EquationName, ir.Expr] = {}
    for name in sort_topologically(graph, values)[0]:
        value = put_in(values[name], single)
        if not name.is_written and uses[name] == 1 and height(value) <= HEIGHT_LIMIT:
            single[name] = value
    kept = tuple(replace(e, value=put_in(e.value, single)) for e in function.equations if e.name not in single)
    outputs = tuple(replace(output, value=put_in(output.value, single)) for output in function.outputs)
    return replace(function, equations=kept, outputs=outputs)


def height(expr: ir.Expr) -> int:
    return 1 + max((height(child) for child in ir.children(expr)), default=0)
