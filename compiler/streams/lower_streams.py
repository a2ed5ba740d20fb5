"""Causality and initialization: typed IR with ``prev`` in, pure functions over states out.

Every rule becomes the stages of its step, those of each event, and an initial function for the states that do not
start at zero; sums over all parameters (``total``) are what ends a stage. Instantaneous cycles, and initial values that
need themselves, end here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from optforge.compiler.frontend.cycles import instantaneous_cycles
from optforge.compiler.frontend.liveness import Read, raw_machines, streams_read, warn_unused
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawDeclaration, RawProgram, RawRule
from optforge.compiler.frontend.types.enlarged_states import warn_enlarged
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.collectives import Collective, Combination, Over
from optforge.compiler.ir.dependencies import dependencies, inputs_of, reachable, slice_function, sort_topologically
from optforge.compiler.ir.names import EquationName, FunctionName, Task, free_name_among
from optforge.compiler.ir.operators import OPERATORS, OWN_RULE
from optforge.compiler.ir.types import FULL, SCALAR, Kind, Phase, Type, Universe
from optforge.compiler.streams.migrations import check_hyper_past, check_past
from optforge.compiler.streams.shared import SharedValues
from optforge.compiler.streams.state_names import Remembered, Slot, collect_slots, identity, name_slots, root_of
from optforge.dsl import errors
from optforge.dsl.source import Span

ZERO = ir.Literal(0.0, "0", type=Type(Kind.NUMBER, SCALAR, Phase.CONSTANT))
ONE = ir.Literal(1.0, "1", type=Type(Kind.NUMBER, SCALAR, Phase.CONSTANT))
WEIGHT = Type(Kind.NUMBER, FULL, Phase.STREAM)
NUMBER_STREAM = Type(Kind.NUMBER, SCALAR, Phase.STREAM)


def check_streams(program: RawProgram, report: Report) -> ir.Program:
    """The whole program as pure functions; unused values and hypers give warnings."""
    wrappers = [check_declaration(wrapper, report) for wrapper in program.wrappers]
    declarations = [check_declaration(declaration, report) for declaration in program.declarations]
    around = tuple(each for each in wrappers if isinstance(each, ir.Optimizer))
    return ir.Program(program.doc, tuple(declarations), around)


def check_declaration(raw: RawDeclaration, report: Report) -> ir.Declaration:
    for rule in raw.rules:
        for function in (rule.step, *(event.function for event in rule.events)):
            for problem in instantaneous_cycles(function):
                report(problem)
            SharedValues(function).check(report)
    if report.failed:
        return ir.Optimizer(raw.name, raw.doc, raw.hypers, raw.requirements, ())
    rules = tuple(RuleStreams(each, len(raw.rules) > 1, report).rule(raw.kind) for each in raw.rules)
    past = [check_past(each.was, rule.states, raw.hypers, report) for each, rule in zip(raw.rules, rules, strict=True)]
    rules = tuple(replace(rule, was=was) for rule, was in zip(rules, past, strict=True))
    if not report.failed:
        warn_unused(raw, rules, report)
        warn_enlarged(raw, report)
    match raw.kind:
        case "optimizer":
            was = check_hyper_past(raw.was, raw.hypers, report)
            return ir.Optimizer(raw.name, raw.doc, raw.hypers, raw.requirements, rules, was)
        case "penalty":
            return ir.Penalty(raw.name, raw.doc, raw.hypers, raw.requirements, rules)
        case _:
            (only,) = rules
            text = only.written
            return ir.Schedule(raw.name, raw.doc, raw.hypers, raw.requirements, only.update, text, only.claims)


def fit_type(value: ir.Expr, wanted: Type) -> ir.Expr:
    """The value as a tensor of exactly the wanted shape."""
    if value.type.phase is Phase.STREAM and value.type.shape == wanted.shape:
        return value
    return ir.Apply("fill", (value,), type=wanted, span=value.span)


def even_branches(node: ir.Expr) -> ir.Expr:
    """Branches of a choice made in Python get the shape of the whole, so that either can be used alike."""
    if not isinstance(node, ir.Select) or node.type.phase is not Phase.STREAM or node.type.kind is not Kind.NUMBER:
        return node
    if not node.condition.type.is_scalar_phase:
        return node
    return replace(node, then=fit_type(node.then, node.type), otherwise=fit_type(node.otherwise, node.type))


@dataclass(frozen=True, slots=True)
class PlannedSum:
    """What every parameter adds to a sum over all of them, and after how many rounds of sums it can be computed."""

    output: ir.Output
    round: int
    over: Over

    @property
    def key(self) -> ir.Key:
        return ir.InputSource.COMBINED, self.output.name


class SummedMachine(NamedTuple):
    """A machine whose ``total``s are inputs of ``update``; equations of this are what the summands are made of."""

    update: ir.Function
    sums: tuple[PlannedSum, ...]


@dataclass
class RuleStreams:
    """Turns one rule's streams into states."""

    raw: RawRule
    is_one_of_several: bool
    report: Report

    def __post_init__(self) -> None:
        self.machines = raw_machines(self.raw)
        self.results = {output.name for function in self.machines.values() for output in function.outputs}
        self.slots: dict[Remembered, Slot] = {}
        for owner, function in self.machines.items():
            self.slots |= collect_slots(owner, function, self.report)
        for node in (node for function in self.machines.values() for node in ir.nodes(function)):
            if isinstance(node, ir.Latest):
                self._add_foreign(node)
        self.slots = dict(sorted(self.slots.items(), key=lambda item: self._position(item[1])))
        self.names = name_slots(list(self.slots.values()), self.report)
        self.shared = {owner: SharedValues(function) for owner, function in self.machines.items()}

    def _position(self, slot: Slot) -> tuple[int, int]:
        """States come in the order of the bindings that they stand in."""
        bindings = [equation.name for equation in self.machines[slot.owner].equations]
        place = bindings.index(slot.binding) if slot.binding in bindings else len(bindings)
        return list(self.machines).index(slot.owner), place

    def _add_foreign(self, node: ir.Latest) -> None:
        """A state for a stream that another machine reads, unless it has one already."""
        owner, name = node.stream
        value = next(e.value for e in self.machines[owner].equations if e.name == name)
        stream = self._root(owner, ir.Ref(name, type=value.type, span=node.span))
        slot = Slot(owner, stream, ZERO, name, "", node.span)
        self.slots.setdefault(slot.remembered, slot)

    def _root(self, owner: str, stream: ir.Ref | ir.Input) -> ir.Ref | ir.Input:
        return root_of(stream, {equation.name: equation for equation in self.machines[owner].equations})

    def _remembered(self, owner: str, node: ir.Prev | ir.Latest) -> Remembered:
        """The stream in whose state the value is found."""
        if isinstance(node, ir.Prev):
            return owner, identity(self._root(owner, node.stream))
        other, name = node.stream
        return other, identity(self._root(other, ir.Ref(name)))

    # Functions

    def rule(self, kind: str) -> ir.Rule:
        raw = self.raw
        if kind != "optimizer":
            return self._without_state()
        machines = {owner: self._with_sums(self._stepping(owner, f), owner) for owner, f in self.machines.items()}
        live = self._live(machines.values())
        stages = {owner: self._stages(machine, live) for owner, machine in machines.items()}
        states = tuple(
            self._state(self.names[key], slot) for key, slot in self.slots.items() if ir.stored(self.names[key]) in live
        )
        events = tuple(
            ir.Event(event.name, event.parameters, stages[event.name], event.doc)
            for event in raw.events
            if stages[event.name][-1].function.outputs  # else it changes nothing of these parameters
        )
        return ir.Rule(
            raw.name,
            raw.roles,
            raw.universe,
            states,
            stages["step"],
            self._initial(live),
            events,
            raw.claims,
            raw.written,
            rank=raw.rank,
            orientation=raw.orientation,
        )

    def _state(self, name: str, slot: Slot) -> ir.State:
        values = self.shared[slot.owner]
        if not values.has(slot.stream):
            return ir.State(name, slot.type)
        return ir.State(name, slot.type, True, values.hypers(slot.stream, slot.initial))

    def _without_state(self) -> ir.Rule:
        raw = self.raw
        step = ir.map_expressions(lambda expr: ir.transform(even_branches, expr), raw.step)
        if self.raw.roles:
            outputs = tuple(replace(o, value=fit_type(o.value, NUMBER_STREAM)) for o in step.outputs)
            step = slice_function(step, outputs)
        else:
            step = slice_function(step, step.outputs)
        stages = (ir.Stage(step),)
        return ir.Rule(raw.name, raw.roles, raw.universe, (), stages, None, (), raw.claims, raw.written)

    def _stepping(self, owner: str, function: ir.Function) -> ir.Function:
        """``prev`` and foreign streams become state inputs; every state of the machine an output."""

        def remember(node: ir.Expr) -> ir.Expr:
            if isinstance(node, ir.Prev | ir.Latest):
                key = self._remembered(owner, node)
                return ir.Input(self.names[key], ir.InputSource.STATE, type=self.slots[key].type, span=node.span)
            return even_branches(node)

        changed = ir.map_expressions(lambda expr: ir.transform(remember, expr), function)
        changed = replace(changed, equations=tuple(replace(each, shared=False) for each in changed.equations))
        outputs = [replace(o, value=fit_type(o.value, WEIGHT)) if o.name == "weight" else o for o in changed.outputs]
        outputs += [
            ir.Output(self.names[key], fit_type(slot.stream, slot.type))
            for key, slot in self.slots.items()
            if slot.owner == owner
        ]
        return replace(changed, outputs=tuple(outputs))

    def _live(self, machines: Iterable[SummedMachine]) -> set[Read]:
        """The states and sums, among others, that some result depends on, now or later."""
        waiting: set[Read] = set()
        graph: dict[Read, set[Read]] = {}
        for update, sums in machines:
            machine = update.name.machine
            for equation in update.equations:
                graph[ir.StreamRef(machine, equation.name)] = streams_read(machine, equation.value)
            for output in update.outputs:
                reads = streams_read(machine, output.value)
                waiting |= reads if output.name in self.results else set()
                graph[ir.stored(output.name)] = reads
            graph |= {each.key: streams_read(machine, each.output.value) for each in sums}
        return reachable(graph, waiting)

    def _stages(self, machine: SummedMachine, live: set[Read]) -> tuple[ir.Stage, ...]:
        """The live sums, each in the first stage that has all that it reads, and then what the machine is there for."""
        update = machine.update
        groups: dict[tuple[int, Over], list[ir.Output]] = {}
        for each in sorted(machine.sums, key=lambda each: each.round):
            if each.key in live:
                groups.setdefault((each.round, each.over), []).append(each.output)
        stages: list[ir.Stage] = []
        for (_, over), group in groups.items():
            outputs = tuple(group)
            function = replace(update, name=replace(update.name, task=Task.SUMS, number=len(stages) + 1))
            if self.is_one_of_several and over is Over.PARAMETERS:
                function = replace(function, universe=Universe.TENSOR)
            sums = (Collective(o.name, Combination.SUM, over, o.value.type) for o in outputs)
            stages.append(ir.Stage(slice_function(function, outputs), tuple(sums)))
        outputs = tuple(o for o in update.outputs if o.name in self.results or ir.stored(o.name) in live)
        return (*stages, ir.Stage(slice_function(update, outputs)))

    def _with_sums(self, step: ir.Function, owner: str) -> SummedMachine:
        """Each ``total(x)`` becomes an input, and x what every parameter adds to it."""
        order, _ = sort_topologically(dependencies(step.equations), [equation.name for equation in step.equations])
        by_name = {equation.name: equation for equation in step.equations}
        done: list[ir.Equation] = []
        sums: dict[tuple[ir.Expr, Over], PlannedSum] = {}

        def name_sum(node: ir.Expr) -> ir.Expr:
            if not (isinstance(node, ir.Apply) and node.operator == "total"):
                return node
            summand, setting = node.arguments
            is_own = self.is_one_of_several and isinstance(setting, ir.Literal) and setting.value == OWN_RULE
            key = (summand, Over.OF_RULE if is_own else Over.PARAMETERS)
            if key not in sums:
                name = f"{'' if owner == 'step' else f'{owner}_'}total_{len(sums) + 1}"
                output = ir.Output(name, fit_type(summand, NUMBER_STREAM))
                function = slice_function(replace(step, equations=tuple(done)), (output,))
                self._require_nothing_given(function, node)
                if self.is_one_of_several and not is_own:
                    self._require_common(function, node)
                reads = {read.key for read in inputs_of(function)}
                earlier = [each.round for each in sums.values() if each.key in reads]
                sums[key] = PlannedSum(output, max(earlier, default=-1) + 1, key[1])
            return ir.Input(sums[key].output.name, ir.InputSource.COMBINED, type=NUMBER_STREAM, span=node.span)

        for name in order:
            equation = by_name[name]
            done.append(replace(equation, value=ir.transform(name_sum, equation.value)))
        outputs = tuple(replace(o, value=ir.transform(name_sum, o.value)) for o in step.outputs)
        return SummedMachine(replace(step, equations=tuple(done), outputs=outputs), tuple(sums.values()))

    def _require_nothing_given(self, function: ir.Function, node: ir.Apply) -> None:
        """A sum ranges over parameters that an event may be given nothing for."""
        for each in inputs_of(function):
            if each.source is ir.InputSource.GIVEN:
                problem = f"`total` adds up over all parameters, of which only some may be given `{each.name}`"
                self.report(errors.bad_argument_shape(problem, node.span, "add it up before the event is called"))

    def _require_common(self, function: ir.Function, node: ir.Apply) -> None:
        """A sum ranges over every parameter, so beside other rules it may read only what all have."""
        own = [n.name for n in inputs_of(function) if n.source in (ir.InputSource.STATE, ir.InputSource.DIMENSION)]
        if own or needs_matrix(function):
            hint = (
                "beside other rules `total` may read `grad`, `weight` and hypers; "
                f"a sum over the parameters of this rule is `total(..., over={self.raw.words[0]})`"
            )
            name = own[0] if own else None
            self.report(errors.not_available(name, "the parameters of other rules", node.span, hint))

    # First values

    def _initial(self, live: set[Read]) -> ir.Function | None:
        """The states that do not start at zero, computed at the first step or event."""
        kept = [key for key, name in self.names.items() if ir.stored(name) in live]
        wanted = [key for key in kept if not is_zero(self.slots[key].initial)]
        if not wanted:
            return None
        starts = self._start_names()
        equations: list[ir.Equation] = []
        for owner, function in self.machines.items():
            for equation in function.equations:
                value = self._at_start(owner, equation.value, starts)
                equations.append(replace(equation, name=starts[ir.StreamRef(owner, equation.name)], value=value))
        for key, slot in self.slots.items():
            value = fit_type(self._at_start(slot.owner, slot.initial, starts), slot.type)
            equations.append(ir.Equation(starts[ir.stored(self.names[key])], value, slot.initial.span))
        roots = {key: starts[ir.stored(self.names[key])] for key in wanted}
        outputs = tuple(
            ir.Output(self.names[key], ir.Ref(root, type=self.slots[key].type)) for key, root in roots.items()
        )
        whole = ir.Function(
            FunctionName(task=Task.FIRST), self.raw.universe, tuple(equations), outputs, rank=self.raw.step.rank
        )
        _, cycles = sort_topologically(dependencies(equations), roots.values())
        for cycle in cycles:
            self._report_initial_cycle(cycle, starts, {e.name: e.span for e in equations})
        return None if cycles else self._require_startable(slice_function(whole, outputs))

    def _start_names(self) -> dict[Read, EquationName]:
        """What the equations of all machines, and the first values of states, are called in one function."""
        names: dict[Read, EquationName] = {
            ir.StreamRef(owner, equation.name): replace(equation.name, scope=owner)
            for owner, function in self.machines.items()
            for equation in function.equations
        }
        taken = {*names.values()}  # an event may be called `first` as well
        return names | {
            ir.stored(s): free_name_among(taken, EquationName.of(s, scope="first")) for s in self.names.values()
        }

    def _report_initial_cycle(
        self, cycle: list[EquationName], starts: dict[Read, EquationName], spans: dict[EquationName, Span]
    ) -> None:
        """Show the cycle in the spec's names, beginning at an initial value."""
        words = {starts[ir.stored(name)]: self.slots[key].binding.word for key, name in self.names.items()}
        start = next(index for index, name in enumerate(cycle) if name in words)
        turned = [*cycle[start:-1], *cycle[: start + 1]]
        shown = [words.get(name, name.word) for name in turned if name in words or name.is_written]
        once = [word for index, word in enumerate(shown) if index == 0 or word != shown[index - 1]]
        self.report(errors.initial_cycle(once if len(once) > 1 else once * 2, spans[turned[0]]))

    def _at_start(self, owner: str, expr: ir.Expr, starts: dict[Read, EquationName]) -> ir.Expr:
        """The expression at the first step: states have their first values, and t is 1."""

        def start(node: ir.Expr) -> ir.Expr:
            if isinstance(node, ir.Prev | ir.Latest):
                key = self._remembered(owner, node)
                return ir.Ref(starts[ir.stored(self.names[key])], type=self.slots[key].type, span=node.span)
            if isinstance(node, ir.Ref):
                return replace(node, name=starts[ir.StreamRef(owner, node.name)])
            if isinstance(node, ir.Input) and node.source is ir.InputSource.STEP:
                return ONE
            return even_branches(node)

        def change(node: ir.Expr) -> ir.Expr:
            return start(node) if isinstance(node, ir.Prev) else start(ir.map_children(change, node))

        return change(expr)

    def _require_startable(self, initial: ir.Function) -> ir.Function:
        for node in ir.nodes(initial):
            if isinstance(node, ir.Input) and node.source in (ir.InputSource.ARGUMENT, ir.InputSource.GIVEN):
                self.report(errors.not_available(node.name, "an initial value", node.span))
            if isinstance(node, ir.Apply) and node.operator == "total":
                self.report(errors.not_available("total", "an initial value", node.span))
        return initial


def is_zero(expr: ir.Expr) -> bool:
    return isinstance(expr, ir.Literal) and expr.value == 0


def needs_matrix(function: ir.Function) -> bool:
    return any(
        (isinstance(node, ir.Apply) and OPERATORS[node.operator].needs_matrix)
        or (isinstance(node, ir.Literal) and node.value in ("row", "col") and node.type.kind is Kind.AXIS)
        for node in ir.nodes(function)
    )
