"""Types for all equations: untyped IR in, typed IR out.

Equations may be recursive through ``prev``, so shapes are found by iteration from "unknown"
upwards; only the last round, in which everything is settled, reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from optforge.compiler import ir
from optforge.compiler.causality import names_read, ordered
from optforge.compiler.constants import ArithmeticProblem, evaluate_constant
from optforge.compiler.infer import BOTTOM, Inference, Reporter, Types
from optforge.compiler.library import Report
from optforge.compiler.raw import RawDeclaration, RawProgram, RawRule
from optforge.compiler.types import FULL, SCALAR, Kind, Phase, Universe, broadcast, describe
from optforge.dsl import errors
from optforge.dsl.diagnostics import Diagnostic, Label


def check_program(program: RawProgram, report: Report) -> RawProgram:
    """The program with types; what does not fit goes to ``report``."""
    checked = [check_declaration(declaration, report) for declaration in program.declarations]
    return replace(program, declarations=tuple(checked))


def check_declaration(declaration: RawDeclaration, report: Report) -> RawDeclaration:
    kinds = kinds_of(declaration.hypers, ir.Source.HYPER)
    choices = {(ir.Source.HYPER, hyper.name): hyper.choices for hyper in declaration.hypers if hyper.choices}
    return replace(
        declaration,
        requirements=tuple(check_requirement(each, declaration, kinds, report) for each in declaration.requirements),
        rules=tuple(check_rule(rule, kinds, choices, report) for rule in declaration.rules),
    )


def kinds_of(hypers: Iterable[ir.Hyper], source: ir.Source) -> dict[ir.Key, Kind]:
    """The kinds of hypers, or of the arguments of an event, by the keys of the inputs that read them."""
    return {(source, hyper.name): hyper.kind for hyper in hypers}


def check_requirement(
    requirement: ir.Requirement, declaration: RawDeclaration, kinds: dict[ir.Key, Kind], report: Report
) -> ir.Requirement:
    """A condition must be true or false, constant, and true for the defaults."""
    known = report.count
    inference = Inference("", Universe.TENSOR, "", {}, kinds, {}, report)
    condition = inference.typed(requirement.condition)
    if condition.type.kind is not Kind.BOOLEAN:
        hint = f"such as `{requirement.subject} > 0`" if condition.type.kind is Kind.NUMBER else None
        report(errors.wrong_kind("`where`", "a condition", condition.type.kind.value, condition.span, hint))
        return requirement
    checked = replace(requirement, condition=condition, value=inference.typed(requirement.value))
    if report.count == known:
        require_defaults(checked, declaration, report)
    return checked


def require_defaults(requirement: ir.Requirement, declaration: RawDeclaration, report: Report) -> None:
    """Report a default, or a value bound in ``use``, that breaks its own condition."""
    defaults = {hyper.name: hyper.default.value for hyper in declaration.hypers if hyper.default}
    try:
        holds = evaluate_constant(requirement.condition, defaults)
        value = evaluate_constant(requirement.value, defaults)
    except ArithmeticProblem as problem:
        report(errors.bad_arithmetic(problem.expr.span.text, problem.reason, problem.expr.span))
        return
    if holds is False:
        report_broken(requirement, value, declaration, report)


def report_broken(
    requirement: ir.Requirement, value: ir.Value | None, declaration: RawDeclaration, report: Report
) -> None:
    """Show the default (or the value in ``use``) with the condition and the other defaults in it."""
    literals = {hyper.name: hyper.default for hyper in declaration.hypers if hyper.default}
    own = literals.get(requirement.subject) if isinstance(requirement.value, ir.Input) else None
    read = {node.name for node in ir.walk(requirement.condition) if isinstance(node, ir.Input)}
    others = [
        Label(literal.span, f"the default of `{name}`")
        for name, literal in literals.items()
        if name in read and literal is not own
    ]
    shown = own.spelling if own else f"{value:g}" if isinstance(value, float) else str(value).lower()
    span, source = (own.span, "default") if own else (requirement.value.span, "value")
    report(errors.default_breaks_condition(requirement.subject, shown, requirement.span, span, others, source))


@dataclass(frozen=True, slots=True)
class Part:
    """One function of a rule while its types are being found."""

    owner: str
    function: ir.Function
    kinds: dict[ir.Key, Kind]


def check_rule(
    rule: RawRule, kinds: dict[ir.Key, Kind], choices: dict[ir.Key, tuple[str, ...]], report: Report
) -> RawRule:
    parts = [Part("step", rule.step, kinds)]
    for event in rule.events:
        arguments = kinds_of(event.parameters, ir.Source.ARGUMENT)
        parts.append(Part(event.name, event.function, kinds | arguments))
    known = settle_types(rule, parts)
    inference = Inference("step", rule.universe, ", ".join(rule.words), known, kinds, choices, report)
    typed = [check_part(rule, part, inference, report) for part in parts]
    inference = replace(inference, in_claim=True)
    return replace(
        rule,
        step=typed[0],
        events=tuple(replace(event, function=function) for event, function in zip(rule.events, typed[1:], strict=True)),
        claims=tuple(check_claim(claim, inference) for claim in rule.claims),
    )


def settle_types(rule: RawRule, parts: list[Part]) -> Types:
    """The type of each equation of each machine: the least solution, unknown shapes being scalars in the end."""
    known: Types = {ir.StreamRef(p.owner, e.name): BOTTOM for p in parts for e in p.function.equations}
    parts = [replace(part, function=in_reading_order(part.function)) for part in parts]
    iterate(rule, parts, known)
    for name, found in known.items():
        if found.shape is None:
            known[name] = replace(found, shape=SCALAR)
    iterate(rule, parts, known)
    return known


def in_reading_order(function: ir.Function) -> ir.Function:
    """The function with every equation after those that it reads, as far as that can be."""
    by_name = {equation.name: equation for equation in function.equations}
    graph = {equation.name: sorted(names_read(equation.value)) for equation in function.equations}
    order, _ = ordered(graph, by_name)
    return replace(function, equations=tuple(by_name[name] for name in order))


def iterate(rule: RawRule, parts: list[Part], known: Types) -> None:
    """Go through all equations until no type changes; what does not fit keeps an unknown shape."""
    for _ in range(len(known) + 10):
        changed = False
        for part in parts:
            problems: list[Diagnostic] = []
            inference = Inference(
                part.owner, rule.universe, "", known, part.kinds, {}, problems.append, is_settled=False
            )
            for equation in part.function.equations:
                problems.clear()
                found = inference.typed(equation.value).type
                found = replace(found, shape=None) if problems else found
                name = ir.StreamRef(part.owner, equation.name)
                if found != known[name]:
                    known[name], changed = found, True
        if not changed:
            return


def check_part(rule: RawRule, part: Part, inference: Inference, report: Report) -> ir.Function:
    inference = replace(inference, owner=part.owner, kinds=part.kinds)
    typed = ir.map_expressions(inference.typed, part.function)
    for equation in typed.equations:
        settled = inference.known[ir.StreamRef(part.owner, equation.name)]
        if equation.value.type.shape != settled.shape and not report.failed:
            wanted = describe(Kind.NUMBER, settled.shape, rule.universe)
            found = describe(Kind.NUMBER, equation.value.type.shape, rule.universe)
            report(errors.wrong_shape(f"the memory of `{equation.name}`", wanted, found, equation.span))
    for output in typed.outputs:
        require_output(output, rule, report)
    return typed


def require_output(output: ir.Output, rule: RawRule, report: Reporter) -> None:
    """``weight`` takes anything that spreads over it, ``factor`` and ``loss`` a scalar."""
    found = output.value.type
    if found.kind is not Kind.NUMBER:
        report(errors.wrong_kind(f"`{output.name} <-`", Kind.NUMBER.value, found.kind.value, output.value.span))
        return
    wanted = FULL if output.name == "weight" else SCALAR
    try:
        fits = broadcast(found.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        words = describe(Kind.NUMBER, wanted, rule.universe)
        shown = describe(Kind.NUMBER, found.shape, rule.universe)
        report(errors.wrong_shape(f"`{output.name} <-`", words, shown, output.value.span))


def check_claim(claim: ir.Claim, inference: Inference) -> ir.Claim:
    promise = inference.typed(claim.promise)
    if claim.form == "scale_free" and not (isinstance(promise, ir.Input) and promise.key == ir.GRAD):
        inference.report(errors.bad_claim("`scale_free` takes `grad`", claim.span))
    if claim.form in ("cost", "state") and promise.type.phase is not Phase.CONSTANT:
        words = f"`{claim.form}` takes a constant: numbers, hyperparameters, `rows` and `cols`"
        inference.report(errors.bad_claim(words, promise.span))
    if claim.form == "orthogonal" and promise.type.is_scalar_phase:
        inference.report(errors.wrong_shape("`orthogonal`", "a matrix", "a scalar", promise.span))
    return replace(claim, promise=promise)
