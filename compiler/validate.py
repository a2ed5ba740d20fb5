"""What must hold between passes: every name defined once, every node typed, no stream that is not a memory."""

from __future__ import annotations

from optforge.compiler import ir
from optforge.compiler.ops import OPERATORS
from optforge.compiler.types import Kind

ORDERED_AFTER = ("schedule", "guard", "storage")


class InternalError(Exception):
    """A mistake of the compiler, never of the spec."""


def functions_of(program: ir.Program) -> list[ir.Function]:
    """Every function of a program."""
    found: list[ir.Function] = []
    for declaration in program.declarations:
        if isinstance(declaration, ir.Schedule):
            found.append(declaration.function)
            continue
        for rule in declaration.rules:
            found += [rule.step, *rule.totals]
            found += [function for event in rule.events for function in (event.function, *event.totals)]
            found += [rule.initial] if rule.initial else []
            found += rule.was
        found += declaration.was if isinstance(declaration, ir.Optimizer) else ()
    return found


def require_valid(program: ir.Program, stage: str) -> None:
    """Raise :class:`InternalError` for the first invariant that does not hold after ``stage``."""
    for function in functions_of(program):
        require_valid_function(function, stage)


def require_valid_function(function: ir.Function, stage: str) -> None:
    defined: set[str] = set()
    names = [equation.name for equation in function.equations]
    if len(set(names)) != len(names):
        raise InternalError(f"after {stage}: a name is defined twice in {names}")
    for equation in function.equations:
        known = defined if stage in ORDERED_AFTER else set(names)
        require_valid_expression(equation.value, known, stage)
        defined.add(equation.name)
        if equation.in_place and not (
            isinstance(equation.value, ir.Apply) and OPERATORS[equation.value.operator].in_place
        ):
            raise InternalError(f"after {stage}: `{equation.name}` cannot be computed in place")
    for output in function.outputs:
        require_valid_expression(output.value, set(names), stage)


def require_valid_expression(expr: ir.Expr, known: set[str], stage: str) -> None:
    for node in ir.walk(expr):
        if isinstance(node, ir.Prev | ir.Latest):
            raise InternalError(f"after {stage}: a {type(node).__name__} is left")
        if isinstance(node, ir.Ref) and node.name not in known:
            raise InternalError(f"after {stage}: `{node.name}` is read before it is defined")
        if node.type.kind is Kind.NUMBER and node.type.shape is None:
            raise InternalError(f"after {stage}: {node} has no shape")
