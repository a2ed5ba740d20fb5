"""What the states of a rule mean, as fingerprints and as text: what checkpoints are compared by.

In: a checked program, before any pass has rewritten it. Out: the same with `fingerprint` and `equation` of each state,
and a fingerprint of each optimizer. Names of equations and states take no part in a fingerprint, nor do comments,
documentation, defaults and conditions of hypers, or in what order equations stand: two states have the same one when
the equations that define them, written out down to gradients, weights and hypers, are the same.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import default_of
from optforge.compiler.ir.collectives import Over
from optforge.compiler.ir.dependencies import dependencies, reachable, sort_topologically
from optforge.compiler.ir.names import EquationName, function_text
from optforge.compiler.ir.operators import OPERATORS, Formal
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import Kind

LENGTH = 12  # hexadecimal digits: two of a thousand states agree by chance once in a billion
MANY = 16  # states that depend on each other, from which on their names count
RENAMED = 5  # hypers of one state of which every set may have been renamed
LONG = 40  # operations that an equation may have to be shown inside of another


def with_fingerprints(program: ir.Program) -> ir.Program:
    """The program with the fingerprints of its optimizers and their states."""
    declarations = (describe_states(each) if isinstance(each, ir.Optimizer) else each for each in program.declarations)
    return replace(program, declarations=tuple(declarations))


def describe_states(optimizer: ir.Optimizer) -> ir.Optimizer:
    hypers = sorted(f"{hyper.name} {hyper.kind.value}" for hyper in optimizer.hypers)
    machines = [Machines(rule) for rule in optimizer.rules]
    past = {function.outputs[0].name: function.outputs[0].value for function in optimizer.was}
    return replace(
        optimizer,
        rules=tuple(replace(each.rule, states=with_past(each, past)) for each in machines),
        fingerprint=digest("optimizer", *hypers, *(each.whole() for each in machines)),
    )


def with_past(machines: Machines, past: Mapping[str, ir.Expr]) -> tuple[ir.State, ...]:
    """The states with what their fingerprints were in versions in which some of their hypers had not their names yet.

    `past` says what hypers were. Each may have been renamed in a version of its own, so every set of those that a
    state depends on counts; of many, only all of them together and each alone.
    """
    states = machines.states()
    alone = {name: Machines(machines.rule, {name: value}).colors for name, value in past.items()}
    readers = {m.name: [name for name in past if alone[name][m.name] != m.fingerprint] for m in states}
    sets = dict.fromkeys(each for names in readers.values() for each in subsets(names))
    marks = {each: Machines(machines.rule, {name: past[name] for name in each}).colors for each in sets}
    return tuple(
        replace(state, before=tuple((each, marks[each][state.name]) for each in subsets(readers[state.name])))
        for state in states
    )


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The sets of some of the names, small ones first."""
    sizes = range(1, len(names) + 1) if len(names) <= RENAMED else sorted({1, len(names)})
    return [each for size in sizes for each in combinations(names, size)]


def digest(*parts: str) -> str:
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


@dataclass(frozen=True, slots=True)
class Value:
    """An expression and the function in which its names mean something."""

    owner: str
    expr: ir.Expr


class What(Enum):
    """What a value of a rule is there for."""

    NEXT = "next"  # what a state becomes
    FIRST = "first"  # what it begins with
    RESULT = "result"  # another output of the step or an event
    TOTAL = "total"  # what parameters add to a sum over all of them


@dataclass(frozen=True, slots=True)
class Purpose:
    """A value that has a name of its own: of a state, of a result of one machine, or of a sum."""

    what: What
    name: str
    owner: str = ""


Key: TypeAlias = Purpose | ir.StreamRef  # what values of a rule go by: purposes, and the equations of its functions


def becomes(state: str) -> Purpose:
    return Purpose(What.NEXT, state)


def begins(state: str) -> Purpose:
    return Purpose(What.FIRST, state)


class Machines:
    """The step and the events of a rule: all their values under keys, and what is known of these."""

    def __init__(self, rule: ir.Rule, past: Mapping[str, ir.Expr] | None = None) -> None:
        self.rule, self.past = rule, past or {}  # what stands in the place of hypers
        self.names = [state.name for state in rule.states]
        self.rank_name = rule.rank.outputs[0].name if rule.rank else ""
        self.shapes = {m.name: " ".join(dim.value for dim in m.type.shape or ()) for m in rule.states}
        self.machines = {"step": rule.update} | {f"event {event.name}": event.update for event in rule.events}
        self.owners = {o.name: owner for owner, function in self.machines.items() for o in function.outputs}
        self.functions = dict(self.machines)
        self.values: dict[Key, Value] = {}
        for owner, function in self.machines.items():
            for o in function.outputs:
                key = becomes(o.name) if o.name in self.names else Purpose(What.RESULT, o.name, owner)
                self.values[key] = Value(owner, o.value)
        sums = [each for stage in rule.stages for each in stage.collectives]
        self.own_sums = {each.name for each in sums if each.over is Over.OF_RULE}
        for function in (stage.function for stage in rule.stages if stage.collectives):
            owner = function_text(function.name)
            self.functions[owner] = function
            self.values |= {Purpose(What.TOTAL, o.name): Value(owner, o.value) for o in function.outputs}
        if rule.initial is not None:
            self.functions["init"] = rule.initial
            self.values |= {begins(o.name): Value("init", o.value) for o in rule.initial.outputs}
        self.equations = {
            owner: {equation.name: equation.value for equation in function.equations}
            for owner, function in self.functions.items()
        }
        self.values |= {
            ir.StreamRef(o, n): Value(o, value) for o, named in self.equations.items() for n, value in named.items()
        }
        self.graph = {key: self._needs(value) for key, value in self.values.items()}
        self.known: dict[Key, str] = {}
        self.colors: dict[str, str] = {}
        for group in self._groups():
            self._settle(group)
        self._know(self._unknown(list(self.values)))
        self.shown = {o: Shown(f, self._streams(o)) for o, f in self.functions.items()}

    # What reads what

    def _needs(self, value: Value) -> list[Key]:
        """The keys of what an expression reads in the same step."""
        found: list[Key] = []
        for node in ir.walk(value.expr):
            if isinstance(node, ir.Ref):
                found.append(ir.StreamRef(value.owner, node.name))
            elif isinstance(node, ir.Input) and node.source is ir.InputSource.COMBINED:
                found.append(Purpose(What.TOTAL, node.name))
        return list(dict.fromkeys(found))

    def _groups(self) -> list[list[str]]:
        """The states, those that depend on each other together, each group after those it depends on."""
        reads: dict[Key, set[str]] = {}
        for key in self._unknown(list(self.values)):
            nodes = ir.walk(self.values[key].expr)
            own = {n.name for n in nodes if isinstance(n, ir.Input) and n.source is ir.InputSource.STATE}
            reads[key] = own.union(*(reads[needed] for needed in self.graph[key]))
        direct = {name: reads[becomes(name)] for name in self.names}
        within = {name: reachable(direct, {name}) for name in self.names}
        groups: dict[str, list[str]] = {}
        for name in sorted(self.names, key=lambda name: len(within[name])):
            first = next((other for other in groups if name in within[other] and other in within[name]), name)
            groups.setdefault(first, []).append(name)
        return list(groups.values())

    def _unknown(self, keys: Sequence[Key]) -> list[Key]:
        """Of the keys and all that they need, each after its needs, those of which nothing is known yet."""
        order, _ = sort_topologically(self.graph, keys)
        return [key for key in order if key not in self.known]

    # Digests

    def _settle(self, group: list[str]) -> None:
        """Fingerprints for states that depend on each other, in which their names take no part.

        At first they look alike; in each round one is told from another by what its equation reads. After as many
        rounds as there are states nothing more is learned. Of absurdly many, names tell one from another.
        """
        keys = [key for name in group for key in (begins(name), becomes(name)) if key in self.values]
        pending = self._unknown(keys)
        if len(group) > MANY:
            named = self._round(pending, {name: f"memory {name}" for name in group})
            self.colors |= {name: digest(color, *sorted(named.values())) for name, color in named.items()}
        else:
            colors = dict.fromkeys(group, "memory")
            for _ in group:
                colors = self._round(pending, colors)
            self.colors |= colors
        self._know(pending)

    def _round(self, pending: list[Key], colors: Mapping[str, str]) -> dict[str, str]:
        found = self._digests(pending, {**self.colors, **colors})
        return {name: self._color(name, found) for name in colors}

    def _color(self, name: str, found: Mapping[Key, str]) -> str:
        return digest(self.owners[name], self.shapes[name], found.get(begins(name), "0"), found[becomes(name)])

    def _know(self, pending: list[Key]) -> None:
        """Keeps the digests of values that read no state without its fingerprint."""
        self.known |= self._digests(pending, self.colors)
        for key in pending:
            self.graph[key] = []

    def _digests(self, pending: list[Key], colors: Mapping[str, str]) -> dict[Key, str]:
        """The digests of values in their order, given those of the states they read."""
        found: dict[Key, str] = {}
        known = ChainMap(found, self.known)
        for key in pending:
            value = self.values[key]
            found[key] = self._digest(value.owner, value.expr, known, colors)
        return found

    def _digest(self, owner: str, expr: ir.Expr, known: Mapping[Key, str], colors: Mapping[str, str]) -> str:
        match plain(expr, self.equations[owner]):
            case ir.Literal(value=value, type=type):
                seen = self._seen() if type.kind is Kind.AXIS else ()
                return digest("literal", repr(value), *seen)
            case ir.Input(name=name, source=ir.InputSource.STATE):
                return digest("memory", colors[name])
            case ir.Input(name=name, source=ir.InputSource.COMBINED):
                own = ["of the rule"] if name in self.own_sums else []
                return digest("total", known[Purpose(What.TOTAL, name)], *own)
            case ir.Input(name=name, source=ir.InputSource.HYPER) if name in self.past:
                return self._past_digest(self.past[name])
            case ir.Input(name=name, source=ir.InputSource.DIMENSION) if self.rule.rank and name == self.rank_name:
                return digest("rank", self._past_digest(self.rule.rank.outputs[0].value))
            case ir.Input(name=name, source=source):
                seen = self._seen() if source is ir.InputSource.DIMENSION else ()
                return digest("input", source.value, name, *seen)
            case ir.Ref(name=name):
                return known[ir.StreamRef(owner, name)]
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                parts = [self._digest(owner, each, known, colors) for each in (condition, then, otherwise)]
                return digest("select", *parts)
            case ir.Apply(operator=operator, arguments=arguments):
                parts = [self._digest(owner, each, known, colors) for each in told(operator, arguments)]
                seen = self._seen() if OPERATORS[operator].needs_matrix else ()
                ordered = sorted(parts) if OPERATORS[operator].commutative else parts
                return digest("apply", operator, *ordered, *seen)
            case other:
                raise AssertionError(f"{other} is gone after the stream check")

    def _seen(self) -> tuple[str, ...]:
        """What is another value where matrices are seen another way says which."""
        return (f"as {self.rule.orientation}",) if self.rule.orientation else ()

    def _past_digest(self, expr: ir.Expr) -> str:
        """Of what a hyper was, in which every name is one of that version."""
        match plain(expr, {}):
            case ir.Literal(value=value):
                return digest("literal", repr(value))
            case ir.Input(name=name, source=source):
                return digest("input", source.value, name)
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                return digest("select", *map(self._past_digest, (condition, then, otherwise)))
            case ir.Apply(operator=operator, arguments=arguments):
                parts = [*map(self._past_digest, told(operator, arguments))]
                return digest("apply", operator, *(sorted(parts) if OPERATORS[operator].commutative else parts))
            case other:
                raise AssertionError(f"{other} is gone after the stream check")

    # What is told of the rule

    def states(self) -> tuple[ir.State, ...]:
        """The states with their fingerprints and equations."""
        return tuple(
            replace(state, fingerprint=self.colors[state.name], equation=self._equation(state.name))
            for state in self.rule.states
        )

    def whole(self) -> str:
        """The fingerprint of all that the rule computes, with the names that a checkpoint has for it."""
        named = [f"{name} {self.colors[name]}" for name in sorted(self.names)]
        keys = [key for key in self.values if isinstance(key, Purpose) and key.what is What.RESULT]
        results = [f"result {key.owner} {key.name} {self.known[key]}" for key in keys]
        arguments = [f"{event.name} {argument_text(each)}" for event in self.rule.events for each in event.parameters]
        return digest("rule", self.rule.name, *self.rule.roles, *named, *results, *arguments)

    def _equation(self, name: str) -> str:
        """The equation of a state as a spec would write it, what it reads written out as far as that stays short."""
        shown = self.shown[self.owners[name]]
        text = f"{name} = {expression_text(shown.definition(self.values[becomes(name)].expr))}"
        if begins(name) in self.values:
            text += f", at first {expression_text(self.shown['init'].definition(self.values[begins(name)].expr))}"
        return text

    def _streams(self, owner: str) -> dict[str, ir.Expr]:
        return {name: self.values[becomes(name)].expr for name in self.names if self.owners[name] == owner}


def told(operator: str, arguments: Sequence[ir.Expr]) -> list[ir.Expr]:
    """The arguments without those that older versions did not have, where these have the value that was meant then."""
    pairs = zip(OPERATORS[operator].parameters, arguments, strict=True)
    return [argument for parameter, argument in pairs if not (parameter.is_later and is_default(parameter, argument))]


def is_default(parameter: Formal, argument: ir.Expr) -> bool:
    default = default_of(parameter, argument.span)
    return isinstance(argument, ir.Literal) and isinstance(default, ir.Literal) and argument.value == default.value


def argument_text(argument: ir.Hyper) -> str:
    """The name of an event's argument, with its shape if it has one."""
    return " ".join((argument.name, *(dim.value for dim in argument.shape or ())))


def plain(expr: ir.Expr, values: Mapping[EquationName, ir.Expr]) -> ir.Expr:
    """The expression itself behind names, fills and choices that a literal has made already."""
    while True:
        match expr:
            case ir.Ref(name=name) if isinstance(values.get(name), ir.Ref | ir.Literal | ir.Input):
                expr = values[name]
            case ir.Apply(operator="fill", arguments=(inner,)):
                expr = inner
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                made = plain(condition, values)
                if not (isinstance(made, ir.Literal) and isinstance(made.value, bool)):
                    return expr
                expr = then if made.value else otherwise
            case _:
                return expr


class Shown:
    """Expressions of a function with short equations in place of their names."""

    def __init__(self, function: ir.Function, states: Mapping[str, ir.Expr]) -> None:
        self.values = {equation.name: equation.value for equation in function.equations}
        streams = {name: plain(value, {}) for name, value in states.items()}
        self.states = {
            value.name: EquationName.of(name) for name, value in streams.items() if isinstance(value, ir.Ref)
        }
        self.known: dict[EquationName, ir.Expr] = {}
        order, _ = sort_topologically(dependencies(function.equations), self.values)
        for name in order:
            self.known[name] = self.of(self.values[name])

    def definition(self, expr: ir.Expr) -> ir.Expr:
        """What the expression is, be it long."""
        found = plain(expr, self.values)
        return self.known[found.name] if isinstance(found, ir.Ref) else self.of(found)

    def of(self, expr: ir.Expr) -> ir.Expr:
        """The expression; the new value of another state, and what would grow long, keeps its name."""
        found = plain(expr, self.values)
        if not isinstance(found, ir.Ref):
            return ir.map_children(self.of, found)
        if found.name in self.states:
            return replace(found, name=self.states[found.name])
        is_short = sum(1 for _ in ir.walk(self.known[found.name])) <= LONG
        return self.known[found.name] if is_short else found
