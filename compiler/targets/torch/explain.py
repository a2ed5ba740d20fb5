"""How the rules of a program will run, in words: what `optforge build --explain-schedule` prints.

Says what the compiler decided and what the runtime will decide by, from the same IR and functions that the generated
module is made of. How a given model runs, with its shapes and dtypes, `optforge.explain_schedule` says.
"""

from __future__ import annotations

from collections.abc import Iterator

from optforge.compiler.analysis.layouts import step_layout
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import name_text
from optforge.compiler.ir.operators import ROWS
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import Dim
from optforge.compiler.targets.torch.fused import lower_fused
from optforge.compiler.targets.torch.hygiene import free_name, scalar_names
from optforge.compiler.targets.torch.statements import lower_function

LAYOUTS = {
    "elementwise": "parameters laid end to end; small ones packed, large ones each in place and in blocks",
    "tensor": "each parameter as one column; those of one size as a batch",
    "matrix": "each parameter as one matrix, or several (`split`); those of one shape as a batch",
}
WHOLE = [row.name for row in ROWS if row.needs_matrix and row.imports and not row.internal]  # functions of the runtime
GRAM = ", in the Gram form where shape and dtype allow (`optforge.runtime.explain_orthogonalize`)"
LABEL = 12


def explain_schedule(program: ir.Program) -> str:
    """The decisions for every rule of every optimizer of a program after all passes."""
    blocks = [
        "\n".join([each.name, *(line for rule in each.rules for line in rule_lines(rule, each))])
        for each in program.declarations
        if isinstance(each, ir.Optimizer)
    ]
    return "\n\n".join(blocks)


def rule_lines(rule: ir.Rule, optimizer: ir.Optimizer) -> Iterator[str]:
    """One indented line for each decision."""
    yield f"  rule {rule.name}, for {', '.join(rule.roles)}"
    layout = step_layout(rule)
    yield line("layout", f"{layout}: {LAYOUTS[layout]}")
    if rule.states:
        yield line("states", f"{', '.join(map(state_text, rule.states))}; one buffer for a batch, states are views")
    written = [name_text(equation.name) for equation in rule.update.equations if equation.in_place]
    yield line("in place", ", ".join(written) or "nothing")
    numbers = sorted(set(numbers_of(rule.update)))
    yield line("numbers", f"{'; '.join(numbers) or 'none'}" + (" (kept outside of graphs)" if numbers else ""))
    decided = sorted(set(decisions_of(rule.update)))
    if decided:
        yield line("decided", f"{'; '.join(decided)} (in Python, each outcome has a graph of its own)")
    whole = [name for name in WHOLE if name in operators(rule.update)]
    if whole:
        yield line("matrices", f"{', '.join(whole)} of whole batches{GRAM if 'orthogonalize' in whole else ''}")
    yield line("auto", strategy_text(rule, optimizer))


def line(label: str, text: str) -> str:
    return f"    {label.ljust(LABEL)}{text}"


def state_text(state: ir.State) -> str:
    assert state.type.shape is not None
    return f"{state.name} {'×'.join('1' if dim is Dim.ONE else dim.value for dim in state.type.shape)}"


def operators(function: ir.Function) -> set[str]:
    return {node.operator for node in ir.nodes(function) if isinstance(node, ir.Apply)}


def strategy_text(rule: ir.Rule, optimizer: ir.Optimizer) -> str:
    """What `backend="auto"` does with the rule's step."""
    from optforge.runtime.execution.strategies import AUTO_ELEMENTS

    scalars = scalar_names(optimizer)
    step = lower_function(rule.update, f"{rule.name}_rule", (), tuple(m.name for m in rule.states), scalars)
    fused = lower_fused(rule, step, free_name(f"{rule.name}_fused", set()), scalars, optimizer.requirements)
    compiled = f"torch.compile from {AUTO_ELEMENTS:,} elements on, eager below"
    if step_layout(rule) != "elementwise" and rule.states:
        compiled += "; compiled for a CPU, states that follow elementwise move first"
    if fused is None:
        return compiled
    called = next(name for name in sorted(fused.used) if name.startswith("fused_"))
    return f"{called}, torch's fused kernel, in float32 and float64; else {compiled}"


def numbers_of(function: ir.Function) -> Iterator[str]:
    """The largest expressions of numbers inside those of tensors: not those that only decide, nor constants."""
    values = [*(e.value for e in function.equations), *(o.value for o in function.outputs)]
    for value in values:
        yield from numbers_in(value)


def numbers_in(expr: ir.Expr) -> Iterator[str]:
    if expr.type.is_scalar_phase:
        if any(isinstance(node, ir.Input) for node in ir.walk(expr)):
            yield expression_text(expr)
        return
    for index, child in enumerate(ir.children(expr)):
        if isinstance(expr, ir.Select) and index == 0 and child.type.is_scalar_phase:
            continue
        if isinstance(expr, ir.Apply) and expr.operator in WHOLE and child.type.is_scalar_phase:
            continue
        yield from numbers_in(child)


def decisions_of(function: ir.Function) -> Iterator[str]:
    """The conditions that Python decides."""
    for equation in function.equations:
        if equation.when is not None:
            yield expression_text(equation.when)
        for node in ir.walk(equation.value):
            if isinstance(node, ir.Select) and node.condition.type.is_scalar_phase:
                yield expression_text(node.condition)
