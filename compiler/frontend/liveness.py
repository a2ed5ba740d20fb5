"""Which streams, hypers and events come to something, and warnings of those that do not.

In: rules whose streams still go by name. A stream is live where a result or a claim depends on it, in this step or a
later one, be it through another machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawDeclaration, RawRule
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import names_read, reachable
from optforge.dsl import errors
from optforge.dsl.source import Span

Read: TypeAlias = ir.StreamRef | ir.Key  # an equation of some machine; a state, or what is combined


def warn_unused(raw: RawDeclaration, rules: Iterable[ir.Rule], report: Report) -> None:
    """A binding that no result depends on, an event that changes nothing, and a hyper that nothing reads.

    ``rules`` are what has become of the declaration's rules. Of an event that no rule has, not every binding is told.
    """
    defined: dict[Span, str] = {}
    used: set[Span] = set()
    machines = {"step", *(event.name for rule in rules for event in rule.events)}
    for rule in raw.rules:
        live = live_names(rule)
        for owner, function in ((o, f) for o, f in raw_machines(rule).items() if o in machines):
            for equation in (equation for equation in function.equations if equation.name.is_written):
                defined[equation.span] = equation.name.word
                used |= {equation.span} if ir.StreamRef(owner, equation.name) in live else set()
    for span, name in defined.items():
        if span not in used and span.source is raw.span.source:
            report(errors.unused_binding(name, span))
    for event in raw.events:
        if event.name not in machines:
            report(errors.idle_event(event.name, event.span))
    read = {name for rule in raw.rules for name in read_hypers(rule)}
    for requirement in raw.requirements:
        read |= {n.name for n in ir.walk(requirement.condition) if isinstance(n, ir.Input)} - {requirement.subject}
    for hyper in raw.hypers:
        if hyper.name not in read and hyper.span.source is raw.span.source:
            report(errors.unused_hyper(hyper.name, hyper.span))


def raw_machines(raw: RawRule) -> dict[str, ir.Function]:
    return {"step": raw.step} | {event.name: event.function for event in raw.events}


def live_names(raw: RawRule) -> set[Read]:
    """The equations of all machines on which a result or a claim depends, in this step or a later one."""
    graph: dict[Read, set[Read]] = {}
    waiting = {name for claim in raw.claims for name in streams_read("step", claim.promise)}
    for owner, function in raw_machines(raw).items():
        for equation in function.equations:
            graph[ir.StreamRef(owner, equation.name)] = streams_read(owner, equation.value)
        waiting |= {name for output in function.outputs for name in streams_read(owner, output.value)}
    return reachable(graph, waiting)


def streams_read(owner: str, expr: ir.Expr) -> set[Read]:
    """What an expression of a machine reads, now or one step ago: any streams, states, and what is combined."""
    found: set[Read] = {ir.StreamRef(owner, name) for name in names_read(expr)}
    for node in ir.walk(expr):
        if isinstance(node, ir.Latest):
            found.add(node.stream)
        elif isinstance(node, ir.Input) and node.source in (ir.InputSource.STATE, ir.InputSource.COMBINED):
            found.add(node.key)
    return found


def read_hypers(raw: RawRule) -> set[str]:
    """The hypers that the equations, results and claims of a rule read, whether they come to anything or not."""
    nodes = [node for claim in raw.claims for node in ir.walk(claim.promise)]
    nodes += [node for function in raw_machines(raw).values() for node in ir.nodes(function)]
    nodes += [*ir.nodes(raw.rank)] if raw.rank else []
    return {node.name for node in nodes if isinstance(node, ir.Input) and node.source is ir.InputSource.HYPER}
