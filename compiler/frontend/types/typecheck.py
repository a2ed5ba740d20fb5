"""Types for all equations: untyped IR in, typed IR out.

Equations may be recursive through ``prev``, so shapes are found by iteration: the smallest ones that fit, from
scalars upwards. Only the last round, in which everything is settled, reports, and it says of each mistake where it
is first made: what does not fit has no shape, and fits everything that is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawDeclaration, RawEvent, RawProgram, RawRule
from optforge.compiler.frontend.types.inference import Inference, Reporter
from optforge.compiler.frontend.types.places import place_indices
from optforge.compiler.frontend.types.recursive import Part, Settled, in_reading_order, settle_types
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import read_argument
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.types import FULL, SCALAR, Dim, Kind, Phase, Universe, broadcast, describe
from optforge.dsl import errors
from optforge.dsl.diagnostics import Label


def check_program(program: RawProgram, report: Report) -> RawProgram:
    """The program with types; what does not fit goes to ``report``."""
    declarations = tuple(check_declaration(each, report) for each in program.declarations)
    return replace(
        program,
        declarations=declarations,
        wrappers=tuple(check_declaration(each, report) for each in program.wrappers),
    )


def check_declaration(declaration: RawDeclaration, report: Report) -> RawDeclaration:
    kinds = kinds_of(declaration.hypers, ir.InputSource.HYPER)
    choices = {(ir.InputSource.HYPER, hyper.name): hyper.choices for hyper in declaration.hypers if hyper.choices}
    return replace(
        declaration,
        requirements=tuple(check_requirement(each, declaration, kinds, report) for each in declaration.requirements),
        rules=tuple(check_rule(rule, kinds, choices, report) for rule in declaration.rules),
    )


def kinds_of(hypers: Iterable[ir.Hyper], source: ir.InputSource) -> dict[ir.Key, Kind]:
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
    holds = evaluate_constant(requirement.condition, defaults)
    value = evaluate_constant(requirement.value, defaults)
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


def check_rule(
    rule: RawRule, kinds: dict[ir.Key, Kind], choices: dict[ir.Key, tuple[str, ...]], report: Report
) -> RawRule:
    parts = [Part("step", rule.step, kinds)]
    for event in rule.events:
        arguments = {read_argument(each).key: each.kind for each in event.parameters}
        require_seen(event, rule, report)
        parts.append(Part(event.name, event.function, kinds | arguments))
    rank = rule.step.rank
    settled = settle_types(rule.universe, parts)
    known = settled.types
    report_undetermined(settled, parts, report)
    inference = Inference("step", rule.universe, ", ".join(rule.words), known, kinds, choices, report, rank=rank)
    *events, step = [check_part(part, inference) for part in (*parts[1:], parts[0])]
    for function in (step, *events):
        for output in function.outputs:
            require_output(output, rule, report)
    assert report.failed or all(each.shape is not None for each in known.values()), "a mistake that was not said"
    inference = replace(inference, in_claim=True)
    return replace(
        rule,
        step=step,
        rank=rule.rank and check_rank(rule.rank, inference),
        events=tuple(replace(event, function=function) for event, function in zip(rule.events, events, strict=True)),
        claims=tuple(check_claim(claim, inference) for claim in rule.claims),
    )


def require_seen(event: RawEvent, rule: RawRule, report: Report) -> None:
    """What a rule for tensors of any shape is given has a value for each element."""
    for each in event.unseen_by(rule.universe):
        problem = f"a rule `for {', '.join(rule.words)}` sees elements, and `{each.name}` has other sides"
        report(errors.bad_argument_shape(problem, each.span, "`rows x cols`, or a rule `for matrix`"))


def check_rank(rank: ir.Function, inference: Inference) -> ir.Function:
    """The size of a rule's own dimension: a number that no step changes."""
    (output,) = rank.outputs
    value = inference.typed(output.value)
    if value.type.kind is not Kind.NUMBER:
        found = value.type.kind.value
        inference.report(errors.wrong_kind(f"`dim {output.name}`", Kind.NUMBER.value, found, value.span))
    return replace(rank, outputs=(replace(output, value=value),))


def report_undetermined(settled: Settled, parts: list[Part], report: Report) -> None:
    """Report equations whose shape nothing tells; whatever is made of them fits then."""
    for part in parts:
        for equation in part.function.equations:
            name = ir.StreamRef(part.owner, equation.name)
            if name in settled.undetermined:
                shape = settled.types[name].shape or SCALAR
                sides = [word for side, word in zip(shape, ("rows", "columns"), strict=True) if side is Dim.ONE]
                report(errors.undetermined_shape(equation.name.word, sides, equation.span))
                settled.types[name] = replace(settled.types[name], shape=None)


def check_part(part: Part, inference: Inference) -> ir.Function:
    """The function with its types; what reads an equation that does not fit is no mistake of its own."""
    inference = replace(inference, owner=part.owner, kinds=part.kinds)
    values = {}
    for equation in in_reading_order(part.function).equations:
        value = values[equation.name] = place_indices(inference.typed(equation.value))
        if value.type.shape is None:
            inference.known[ir.StreamRef(part.owner, equation.name)] = value.type
    equations = tuple(replace(each, value=values[each.name]) for each in part.function.equations)
    outputs = tuple(replace(each, value=place_indices(inference.typed(each.value))) for each in part.function.outputs)
    return replace(part.function, equations=equations, outputs=outputs)


def require_output(output: ir.Output, rule: RawRule, report: Reporter) -> None:
    """``weight`` takes anything that spreads over it, ``factor`` and ``loss`` a scalar."""
    found = output.value.type
    if found.kind is not Kind.NUMBER:
        report(errors.wrong_kind(f"`{output.name} <-`", Kind.NUMBER.value, found.kind.value, output.value.span))
        return
    if found.shape is None:
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
    promise = place_indices(inference.typed(claim.promise))
    if claim.form == "scale_free" and not (isinstance(promise, ir.Input) and promise.key == ir.GRAD):
        inference.report(errors.bad_claim("`scale_free` takes `grad`", claim.span))
    if claim.form in ("cost", "state", "communicates") and promise.type.phase is not Phase.CONSTANT:
        words = f"`{claim.form}` takes a constant: numbers, hyperparameters, `rows` and `cols`"
        inference.report(errors.bad_claim(words, promise.span))
    if claim.form == "orthogonal" and promise.type.is_scalar_phase:
        inference.report(errors.wrong_shape("`orthogonal`", "a matrix", "a scalar", promise.span))
    return replace(claim, promise=promise)
