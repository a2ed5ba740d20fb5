"""What a generated class tells its checkpoints: the fingerprints of its states, and how older ones are read.

In: an optimizer after all passes. Out: the lines of a ``Spec(...)``, and the functions that it names.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.targets.torch.documents import docstring, wrap_text
from optforge.compiler.targets.torch.expressions import quote
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.hygiene import ScalarNames, free_name, given_names, python_name, scalar_names
from optforge.compiler.targets.torch.rules import tuple_text
from optforge.compiler.targets.torch.statements import WIDTH, lower_function


def lower_spec(node: ir.Optimizer, prefix: str, taken: set[str]) -> tuple[list[str], list[PyFunction]]:
    """The lines of ``Spec(...)`` without their indentation, and the functions from older states and hypers."""
    scalars = scalar_names(node)
    lines = ["Spec(", f"    hash={quote(node.fingerprint)},", *states_lines(node.rules)]
    functions: list[PyFunction] = []
    entries: list[str] = []
    for rule in node.rules:
        for each in rule.was:
            target = each.outputs[0].name
            functions.append(
                past_function(each, free_name(f"{prefix}{rule.name}_{python_name(target)}_was", taken), scalars)
            )
            entries += was_lines(rule.name, target, functions[-1])
    for each in node.was:
        target = each.outputs[0].name
        functions.append(past_function(each, free_name(f"{prefix}{target}_was", taken), given_names(each)))
        entries += was_lines("", target, functions[-1])
    lines += before_lines(node.rules)
    if len(entries) == 1:  # a tuple of one thing that fits in a line is written in one
        lines.append(f"    was=({entries[0]}),")
    elif entries:
        lines += ["    was=(", *(f"        {line}" for line in entries), "    ),"]
    return [*lines, ")"], functions


def past_function(function: ir.Function, name: str, scalars: ScalarNames) -> PyFunction:
    """One state or hyper as a function of those of an older checkpoint."""
    target = function.outputs[0].name
    states = [each.name for each in inputs_of(function) if each.source is ir.InputSource.STATE]
    doc = docstring(wrap_text(f"The {target} of an older checkpoint.", WIDTH - 10))
    lowered = lower_function(function, name, doc, tuple(dict.fromkeys(states)), scalars)
    return replace(lowered, returns=(f"return {lowered.returns[0].removeprefix('return (').removesuffix(',)')}",))


def was_lines(rule: str, target: str, function: PyFunction) -> list[str]:
    """``Was(rule, target, function, states, scalars),``, one argument a line where it is long."""
    arguments = [quote(rule), quote(target), function.name, tuple_text(function.inputs), tuple_text(function.scalars)]
    line = f"Was({', '.join(arguments)}),"
    if len(line) + 8 <= WIDTH:
        return [line]
    return ["Was(", *(f"    {argument}," for argument in arguments), "),"]


def states_lines(rules: tuple[ir.Rule, ...]) -> list[str]:
    """``states={...},``: for each rule the fingerprint and the equation of each state, long ones in parts."""
    lines = ["    states={"]
    for rule in rules:
        if not rule.states:
            lines.append(f"        {quote(rule.name)}: {{}},")
            continue
        lines.append(f"        {quote(rule.name)}: {{")
        for state in rule.states:
            lines += [f"            {line}" for line in state_lines(state)]
        lines.append("        },")
    return [*lines, "    },"]


def before_lines(rules: tuple[ir.Rule, ...]) -> list[str]:
    """``before={...},``: for each rule whose hypers were others, what the fingerprints of its states were then."""
    lines: list[str] = []
    for rule in rules:
        states = [state for state in rule.states if state.before]
        lines += [f"        {quote(rule.name)}: {{"] if states else []
        for state in states:
            lines.append(f"            {quote(state.name)}: {{")
            lines += [f"                {tuple_text(names)}: {quote(mark)}," for names, mark in state.before]
            lines.append("            },")
        lines += ["        },"] if states else []
    return ["    before={", *lines, "    },"] if lines else []


def state_lines(state: ir.State) -> list[str]:
    parts = wrap_text(state.equation, WIDTH - 20)
    flat = f"{quote(state.name)}: ({', '.join(quote(text) for text in (state.fingerprint, *parts))}),"
    if len(flat) + 12 <= WIDTH:
        return [flat]
    return [f"{quote(state.name)}: (", *(f"    {quote(text)}," for text in (state.fingerprint, *parts)), "),"]
