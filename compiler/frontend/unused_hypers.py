"""The hypers of a base that an extension no longer reads: it does not have them.

Takes a resolved optimizer and the names of what it inherits, gives the optimizer that is left. A hyper that it declares
itself stays, read or not: that is a mistake to be warned of.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.frontend.liveness import Read, live_names, raw_machines, streams_read
from optforge.compiler.frontend.resolved import RawDeclaration, RawRule
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import reachable
from optforge.compiler.ir.names import EquationName
from optforge.dsl import ast


def without_unread(raw: RawDeclaration, inherited: frozenset[str]) -> RawDeclaration:
    """Without the inherited hypers on which no result, claim or condition of those that stay depends.

    Equations that come to nothing and read such a hyper go with it.
    """
    conditions: dict[str, set[str]] = {}
    for requirement in raw.requirements:
        for subject in hypers_in(requirement.value):
            conditions.setdefault(subject, set()).update(hypers_in(requirement.condition))
    declared = {hyper.name for hyper in raw.hypers} - inherited
    kept = reachable(conditions, declared.union(*(hypers_read(rule) for rule in raw.rules)))
    hypers = tuple(hyper for hyper in raw.hypers if hyper.name in kept)
    requirements = tuple(each for each in raw.requirements if hypers_in(each.condition) <= kept)
    lost = {hyper.name for hyper in raw.hypers} - kept
    rules = tuple(without_readers(rule, lost) for rule in raw.rules) if lost else raw.rules
    return replace(raw, hypers=hypers, requirements=requirements, rules=rules)


def without_readers(rule: RawRule, lost: set[str]) -> RawRule:
    """The rule without the equations that read a lost hyper, directly or through one another."""
    values = {ir.StreamRef(machine, e.name): e.value for machine, f in raw_machines(rule).items() for e in f.equations}
    readers: dict[Read, set[Read]] = {}
    for stream, value in values.items():
        for read in streams_read(stream.machine, value):
            readers.setdefault(read, set()).add(stream)
    gone = reachable(readers, {*(stream for stream, value in values.items() if hypers_in(value) & lost)})

    def left(owner: str, function: ir.Function) -> ir.Function:
        return replace(
            function, equations=tuple(e for e in function.equations if ir.StreamRef(owner, e.name) not in gone)
        )

    def is_gone(line: ir.Written) -> bool:
        return isinstance(line, ast.Binding) and ir.StreamRef("step", EquationName.of(line.target.name)) in gone

    events = tuple(replace(event, function=left(event.name, event.function)) for event in rule.events)
    written = tuple(each for each in rule.written if not is_gone(each))
    return replace(rule, step=left("step", rule.step), events=events, written=written)


def hypers_read(rule: RawRule) -> set[str]:
    """The hypers in equations on which a result or a claim depends, and in those themselves."""
    live = live_names(rule)
    values = [claim.promise for claim in rule.claims]
    for owner, function in raw_machines(rule).items():
        values += [each.value for each in function.equations if ir.StreamRef(owner, each.name) in live]
        values += [each.value for each in function.outputs]
    values += [each.value for each in rule.rank.outputs] if rule.rank else []
    return {name for value in values for name in hypers_in(value)}


def hypers_in(value: ir.Expr) -> set[str]:
    return {n.name for n in ir.walk(value) if isinstance(n, ir.Input) and n.source is ir.InputSource.HYPER}
