"""How much of a parameter a function must see at once: some elements, the whole tensor, or a matrix."""

from __future__ import annotations

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import FULL, Universe


def layout_of(function: ir.Function) -> str:
    """How much of a parameter the function must see at once."""
    if function.universe is Universe.MATRIX:
        return "matrix"
    alone = all(map(is_elementwise, ir.nodes(function)))
    return "elementwise" if alone and all(o.value.type.shape == FULL for o in function.outputs) else "tensor"


def step_layout(rule: ir.Rule) -> str:
    """The layout of the rule's step, in which all states are kept, also those that only its events read."""
    layout = layout_of(rule.update)
    is_narrow = any(state.type.shape != FULL for state in rule.states)
    return "tensor" if layout == "elementwise" and is_narrow else layout


def is_elementwise(node: ir.Expr) -> bool:
    if isinstance(node, ir.Apply) and not OPERATORS[node.operator].elementwise and not node.type.is_scalar_phase:
        return False
    if isinstance(node, ir.Input) and node.source in (ir.InputSource.STATE, ir.InputSource.GIVEN):
        return node.type.shape == FULL
    return True
