"""Docstrings of generated classes: the spec's words, equations, hypers with their conditions, claims."""

from __future__ import annotations

import textwrap
from typing import assert_never

from optforge.compiler.analysis.layouts import step_layout
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import FULL, Universe
from optforge.compiler.targets.base import roles_text
from optforge.compiler.targets.torch.statements import WIDTH
from optforge.dsl import ast
from optforge.dsl.printer import print_expression

LINES = (ast.Binding, ast.Update)
OPTIONS = "options: precision, seed, skip_nonfinite, backend and capturable, as `SpecOptimizer` has them."


def class_doc(node: ir.Declaration, rules: tuple[ir.Rule, ...]) -> tuple[str, ...]:
    """The class docstring: the spec's words, its equations, its hypers with their conditions, its claims."""
    lines = list(doc_lines(node.doc or f"{node.name}, generated from its spec.", WIDTH - 4))
    if isinstance(node, ir.Schedule):
        lines += ["", *equation_block(node.written)]
    for rule in rules:
        lines += [
            "",
            *wrap_text(f"For {roles_text(rule)} parameters{seen_text(rule)}:", WIDTH - 4),
            "",
            *equation_block(in_short(rule.written)),
            *fixed_point_lines(rule),
        ]
    lines += ["", "Args:"]
    if not isinstance(node, ir.Schedule):
        lines += ["    params: a module, tensors, (name, tensor) pairs, or parameter groups."]
    else:
        lines += ["    optimizer: its groups' lr is the base that the factor multiplies."]
    for hyper in sorted(node.hypers, key=lambda hyper: hyper.default is not None):
        conditions = [escape(expression_text(r.condition)) for r in node.requirements if r.subject == hyper.name]
        parts = [escape(hyper.doc)] if hyper.doc else []
        parts += [f"`{condition}`" for condition in conditions]
        lines += wrap_text(f"{hyper.name}: {'; '.join(parts) or 'a hyperparameter of the spec'}.", WIDTH - 8, "    ")
    if not isinstance(node, ir.Schedule | ir.Penalty):
        lines += wrap_text(OPTIONS, WIDTH - 8, "    ")
    lines += ["", "Raises:", "    ValueError: a hyperparameter breaks its condition; the message names it."]
    own = [rule for rule in rules if not any(isinstance(each, ast.Delegate) for each in rule.written)]
    of_rules = [claim for rule in own for claim in rule.claims]
    claims = [print_expression(claim.written) for claim in (node.claims if isinstance(node, ir.Schedule) else of_rules)]
    if claims:
        lines += [
            "",
            "Claims of the spec:",
            *(line for claim in claims for line in wrap_text(escape(claim), WIDTH - 8, "    ")),
        ]
    return tuple(lines)


def fixed_point_lines(rule: ir.Rule) -> list[str]:
    """Sentences on weights that a rule cannot move, and on steps that move weights though lr is 0."""
    roles = roles_text(rule)
    said = [f"{roles[0].upper()}{roles[1:]} parameters that are all zeros stay so."] if rule.keeps_zero else []
    if rule.moves_at_rest:
        said.append(f"A step with lr = 0 need not leave {roles} parameters exactly as they are.")
    return ["", *wrap_text(" ".join(said), WIDTH - 4)] if said else []


def docstring(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a docstring with its quotes."""
    first, *rest = lines
    if not rest:
        return (f'"""{first}"""',)
    return (f'"""{first}', *rest, '"""')


def in_short(written: tuple[ir.Written, ...]) -> tuple[ir.Written, ...]:
    """What a rule says: of an optimizer that it uses the name in place of the equations, then those of wrappers."""
    used = tuple(each for each in written if isinstance(each, ast.Delegate))
    return (*used, *(each for each in written if isinstance(each, ast.Wrapper))) if used else written


def equation_block(equations: tuple[ir.Written, ...]) -> list[str]:
    lines: list[str] = []
    for each in equations:
        if isinstance(each, ast.Wrapper):
            lines += ["", f"and around it, where `step` is the weight above, {each.name.name}:", ""]
            (rule,) = (member for member in each.members if isinstance(member, ast.Rule))
            lines += equation_block(tuple(line for line in rule.statements if isinstance(line, LINES)))
        else:
            lines += wrap_text(escape(equation_text(each)), WIDTH - 8, "    ")
    return lines


def equation_text(written: ast.Binding | ast.Update | ast.Delegate) -> str:
    """An equation in the spec's own words."""
    match written:
        case ast.Binding(value=value):
            return f"{written.head} = {print_expression(value)}"
        case ast.Update(target=target, value=value):
            return f"{target.name} <- {print_expression(value)}"
        case ast.Delegate():
            given = [f"{name.name}={print_expression(value)}" for name, value in written.keywords]
            return f"use {written.optimizer.name}({', '.join(given)})"
        case _:
            assert_never(written)


def escape(text: str) -> str:
    """Text that cannot end a docstring or mean anything in it."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text.expandtabs(4)
    )
    return shown.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def wrap_text(text: str, width: int = WIDTH, indent: str = "", hanging: str = "    ") -> tuple[str, ...]:
    """A paragraph in lines, continued with a hanging indent where it has an indent at all."""
    rest = indent + hanging if indent else ""
    lines = textwrap.wrap(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return tuple(lines) or ("",)


def doc_lines(text: str, width: int = WIDTH) -> tuple[str, ...]:
    """A docstring's own lines, unindented, long ones wrapped, ready to stand after the quotes."""
    plain = textwrap.dedent(escape(text).strip("\n"))
    first, *rest = plain.strip().split("\n")
    lines: list[str] = list(wrap_text(first, width - 3))
    for line in textwrap.dedent("\n".join(rest)).split("\n") if rest else []:
        lines += [line.rstrip()] if len(line.rstrip()) <= width else wrap_text(line, width)
    if lines[-1].endswith('"'):
        lines[-1] = lines[-1][:-1] + '\\"'
    return tuple(lines)


def describe_tensors(rule: ir.Rule) -> str:
    """One sentence on the shapes that the rule's function takes."""
    if step_layout(rule) == "elementwise":
        return f"One step for a block of elements of {roles_text(rule)} parameters"
    shape = "(..., rows, cols)" if rule.universe is Universe.MATRIX else "(..., n, 1)"
    narrow = [f"{m.name} {shape_text(m)}" for m in rule.states if m.type.shape != FULL]
    tail = f"; {', '.join(narrow)}" if narrow else ""
    return f"One step for {roles_text(rule)} parameters {shape}{seen_text(rule)}{tail}"


def seen_text(rule: ir.Rule) -> str:
    """How a rule sees matrices, if not as they are."""
    sides = {"wide": ", seen as wide (rows <= cols)", "tall": ", seen as tall (rows >= cols)"}
    return sides.get(rule.orientation, "")


def shape_text(state: ir.State) -> str:
    assert state.type.shape is not None
    return "(..., " + ", ".join(dim.value for dim in state.type.shape) + ")"
