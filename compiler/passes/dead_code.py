"""Dead equations: what no output needs is dropped."""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import slice_function


def drop_dead(function: ir.Function) -> ir.Function:
    """The function without unneeded equations, the others in their order."""
    needed = {equation.name for equation in slice_function(function, function.outputs).equations}
    return replace(function, equations=tuple(e for e in function.equations if e.name in needed))
