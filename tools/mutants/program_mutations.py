"""Systematic small mistakes in a spec's program, one at a time.

Takes the resolved program, before types: whatever a mistake makes of shapes and states, the type checker and the
stream check then decide whether a program is left of it. What the mistakes do is for `mutants.py` to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawDeclaration, RawProgram, RawRule
from optforge.compiler.frontend.types.typecheck import check_program
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import name_text
from optforge.compiler.ir.operators import OPERATORS, SETTINGS
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import CONSTANT, Kind
from optforge.compiler.streams.lower_streams import check_streams
from optforge.dsl.diagnostics import SpecError

SWAPS = {
    "add": ("sub",),
    "sub": ("add",),
    "mul": ("div",),
    "div": ("mul",),
    "min": ("max",),
    "max": ("min",),
    "lt": ("le", "gt"),
    "le": ("lt", "ge"),
    "gt": ("ge", "lt"),
    "ge": ("gt", "le"),
    "eq": ("ne",),
    "ne": ("eq",),
    "and": ("or",),
    "or": ("and",),
    "sum": ("mean",),
    "mean": ("sum", "amax"),
    "norm": ("sum", "amax"),
    "amax": ("mean", "amin"),
    "amin": ("mean", "amax"),
}
ORDERED = ("sub", "div", "pow", "matmul", "mod")
UNARY = ("sqrt", "abs", "neg", "sign", "exp", "log", "log1p", "tanh", "atan", "floor", "round", "not")
REMOVABLE = (*UNARY, "transpose", "orthogonalize", "qr", "cholesky")
AXES = ("all", "row", "col")
SHOWN = 60


@dataclass(frozen=True)
class Mutant:
    """``place`` and ``change`` name it; the program has not been checked."""

    place: str
    change: str
    program: RawProgram


@dataclass(frozen=True)
class Surroundings:
    """What a mistake may reach for: the numeric hypers of the declaration."""

    hypers: tuple[str, ...]


def program_mutants(program: RawProgram, name: str) -> Iterator[Mutant]:
    """Every mistake in one optimizer of a program."""
    index = next(i for i, declaration in enumerate(program.declarations) if declaration.name == name)
    declaration = program.declarations[index]
    around = Surroundings(tuple(h.name for h in declaration.hypers if h.kind is Kind.NUMBER))
    for place, change, changed in declaration_mutants(declaration, around):
        declarations = (*program.declarations[:index], changed, *program.declarations[index + 1 :])
        yield Mutant(place, change, replace(program, declarations=declarations))


def declaration_mutants(declaration: RawDeclaration, around: Surroundings) -> Iterator[tuple[str, str, RawDeclaration]]:
    for number, rule in enumerate(declaration.rules):
        for place, change, changed in rule_mutants(rule, around):
            rules = (*declaration.rules[:number], changed, *declaration.rules[number + 1 :])
            yield place, change, replace(declaration, rules=rules)


def rule_mutants(rule: RawRule, around: Surroundings) -> Iterator[tuple[str, str, RawRule]]:
    for place, change, function in function_mutants(rule.step, around):
        yield f"{rule.name}.{place}", change, replace(rule, step=function)
    for number, event in enumerate(rule.events):
        for place, change, function in function_mutants(event.function, around):
            events = (*rule.events[:number], replace(event, function=function), *rule.events[number + 1 :])
            yield f"{rule.name}.{event.name}.{place}", change, replace(rule, events=events)


def function_mutants(function: ir.Function, around: Surroundings) -> Iterator[tuple[str, str, ir.Function]]:
    for number, equation in enumerate(function.equations):
        for change, value in variants(equation.value, around):
            changed = replace(equation, value=value)
            equations = (*function.equations[:number], changed, *function.equations[number + 1 :])
            yield name_text(equation.name), change, replace(function, equations=equations)
    for number, output in enumerate(function.outputs):
        for change, value in variants(output.value, around):
            outputs = (*function.outputs[:number], replace(output, value=value), *function.outputs[number + 1 :])
            yield f"{output.name} <-", change, replace(function, outputs=outputs)


def variants(expr: ir.Expr, around: Surroundings) -> Iterator[tuple[str, ir.Expr]]:
    """The expression with one mistake, in every place: the node itself first, then each child."""
    for changed in mistakes(expr, around):
        yield f"{shown(expr)} -> {shown(changed)}", changed
    for index, child in enumerate(ir.children(expr)):
        if not is_setting(expr, index):
            for change, changed in variants(child, around):
                yield change, with_child(expr, index, changed)


def shown(expr: ir.Expr) -> str:
    """The expression in the language, its middle left out if it is long."""
    text = expression_text(expr)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def is_setting(expr: ir.Expr, index: int) -> bool:
    """Axes, methods and numbers of iterations are no values: `mistakes` of the operator knows them."""
    if isinstance(expr, ir.Prev):
        return True
    return isinstance(expr, ir.Apply) and OPERATORS[expr.operator].parameters[index].want in SETTINGS


def with_child(expr: ir.Expr, index: int, new: ir.Expr) -> ir.Expr:
    places = iter(range(len(ir.children(expr))))
    return ir.map_children(lambda child: new if next(places) == index else child, expr)


def mistakes(node: ir.Expr, around: Surroundings) -> Iterator[ir.Expr]:
    """What could stand in place of a node."""
    match node:
        case ir.Literal(value=bool(value)):
            yield ir.Literal(not value, str(not value).lower())
        case ir.Literal(value=float() | int() as value):
            yield from (number(v) for v in ((value * 1.1, -value) if value else (0.5,)))
        case ir.Input():
            yield from wrong_inputs(node, around)
        case ir.Ref():
            yield ir.Prev(node, number(0), node.name.root, "late")
        case ir.Prev(stream=stream, initial=initial):
            yield stream
            is_zero = isinstance(initial, ir.Literal) and initial.value == 0
            yield replace(node, initial=number(1.0 if is_zero else 0.0))
        case ir.Select(then=then, otherwise=otherwise):
            yield replace(node, then=otherwise, otherwise=then)
            yield from (then, otherwise)
        case ir.Apply():
            yield from wrong_operators(node)
            yield from wrong_settings(node)
            yield from wrong_placements(node)


def number(value: float) -> ir.Literal:
    return ir.Literal(float(value), repr(float(value)), type=CONSTANT)


def wrong_inputs(node: ir.Input, around: Surroundings) -> Iterator[ir.Expr]:
    """Another hyper, the step after, the other dimension."""
    if node.source is ir.InputSource.STEP:
        yield ir.Apply("add", (node, number(1)))
    elif node.source is ir.InputSource.DIMENSION:
        others = {"rows": "cols", "cols": "rows", "outputs": "inputs", "inputs": "outputs"}
        if node.name in others:
            yield replace(node, name=others[node.name])
    elif node.source is ir.InputSource.HYPER and node.name in around.hypers and len(around.hypers) > 1:
        position = around.hypers.index(node.name)
        yield replace(node, name=around.hypers[(position + 1) % len(around.hypers)])


def wrong_operators(node: ir.Apply) -> Iterator[ir.Expr]:
    """Another operator, an operand left out, two in the wrong order."""
    for other in SWAPS.get(node.operator, ()):
        yield replace(node, operator=other)
    operands = node.arguments[: OPERATORS[node.operator].values]
    if node.operator in REMOVABLE:
        yield node.arguments[0]
    if len(operands) == 2 and not OPERATORS[node.operator].boolean:
        yield from operands
    if node.operator in ORDERED:
        yield replace(node, arguments=(operands[1], operands[0]))
    if node.operator == "clamp":
        value, low, high = operands
        yield ir.Apply("max", (value, low))
        yield ir.Apply("min", (value, high))


def wrong_settings(node: ir.Apply) -> Iterator[ir.Expr]:
    """Another axis; one iteration more or less."""
    for index, (argument, parameter) in enumerate(
        zip(node.arguments, OPERATORS[node.operator].parameters, strict=True)
    ):
        if not isinstance(argument, ir.Literal):
            continue
        if parameter.name == "per":
            for axis in AXES:
                if axis != argument.value:
                    yield with_child(node, index, replace(argument, value=axis, spelling=axis))
        elif parameter.name in ("steps", "p") and isinstance(argument.value, float):
            yield with_child(node, index, number(argument.value + 1))


def wrong_placements(node: ir.Apply) -> Iterator[ir.Expr]:
    """Decay in the wrong order or without its factor; the parts of a mixture exchanged."""
    match node:
        case ir.Apply("sub", (ir.Apply("mul", (factor, ir.Input(name="weight") as weight)), update)):
            yield ir.Apply("mul", (factor, ir.Apply("sub", (weight, update))))
        case ir.Apply("mul", (factor, ir.Apply("add", (update, ir.Apply("mul") as decay)))) if reads_weight(decay):
            yield ir.Apply("add", (ir.Apply("mul", (factor, update)), decay))
        case ir.Apply("add", (ir.Apply("mul", (a, x)), ir.Apply("mul", (b, y)))):
            yield ir.Apply("add", (ir.Apply("mul", (b, x)), ir.Apply("mul", (a, y))))


def reads_weight(expr: ir.Expr) -> bool:
    return any(isinstance(node, ir.Input) and node.key == ir.WEIGHT for node in ir.walk(expr))


def check(program: RawProgram) -> ir.Program | None:
    """The program with types and states, or None where the mistake leaves none."""
    report = Report()
    try:
        typed = check_program(program, report)
        found = None if report.failed else check_streams(typed, report)
    except SpecError:
        return None
    return None if report.failed else found
