"""Algorithms: a rule with its events as lines of equations, in the order in which they can be computed.

In: rules whose streams are states, constants folded and copies put in place, and nothing else done to them. A state
is printed as the stream that it holds, one step earlier; sums over all parameters stand where the spec has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import number
from optforge.compiler.ir.dependencies import dependencies, put_in, slice_function, sort_topologically
from optforge.compiler.ir.names import EquationName, one_word
from optforge.compiler.ir.operators import EVERYTHING
from optforge.compiler.ir.types import Kind, Phase, Universe
from optforge.compiler.passes.order_equations import name_outputs
from optforge.compiler.targets.document.expressions import Scribe
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import PrintedLine
from optforge.compiler.targets.document.parts import fitting_lines, part_symbols
from optforge.compiler.targets.document.symbols import Symbol, Symbols, candidates, candidates_of_equation
from optforge.dsl import ast
from optforge.dsl.source import NOWHERE

FACTOR, LOSS = Symbol("f"), Symbol("L")
STEP, CALL = "t", "k"  # what counts steps, and calls of an event
ARGUMENTS = (ir.InputSource.ARGUMENT, ir.InputSource.GIVEN)
SIZES = {
    "rows": r"n_{\mathrm{row}}",
    "cols": r"n_{\mathrm{col}}",
    "outputs": r"n_{\mathrm{out}}",
    "inputs": r"n_{\mathrm{in}}",
}


@dataclass(frozen=True, slots=True)
class Calculation:
    """What a machine computes: lines, and the expressions that they print."""

    lines: tuple[PrintedLine, ...]
    printed: tuple[ir.Expr, ...]


@dataclass(frozen=True, slots=True)
class PrintedEvent:
    """An event with the symbols of its arguments."""

    event: ir.Event
    arguments: tuple[Formula, ...]
    calculation: Calculation


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A rule as it is printed; ``first`` are the values of states before the first step."""

    rule: ir.Rule
    weight: Symbol
    gradient: Symbol
    first: tuple[PrintedLine, ...]
    step: Calculation
    events: tuple[PrintedEvent, ...]
    rank: PrintedLine | None = None

    @property
    def printed(self) -> tuple[ir.Expr, ...]:
        """All expressions that its equations print."""
        return (*self.step.printed, *(expr for event in self.events for expr in event.calculation.printed))

    @property
    def reads_gradient(self) -> bool:
        return any(isinstance(node, ir.Input) and node.key == ir.GRAD for node in nodes_of(self.step.printed))


def nodes_of(exprs: Sequence[ir.Expr]) -> Iterator[ir.Expr]:
    return (node for expr in exprs for node in ir.walk(expr))


@dataclass(frozen=True)
class WholeMachine:
    """The equations of a step or event, of all its stages at once, and where its states come from."""

    name: str
    equations: tuple[ir.Equation, ...]
    results: Mapping[str, ir.Expr]

    @property
    def printed(self) -> tuple[ir.Expr, ...]:
        return tuple(equation.value for equation in self.equations)


def machine_of(name: str, stages: Sequence[ir.Stage], order: Mapping[EquationName, int]) -> WholeMachine:
    """The stages of a machine as one, in which sums over parameters are written where they are read."""
    equations: dict[EquationName, ir.Equation] = {}
    sums: dict[ir.Key, ir.Expr] = {}

    def put_sums(node: ir.Expr) -> ir.Expr:
        return sums.get(node.key, node) if isinstance(node, ir.Input) else node

    for stage in stages:
        function = ir.map_expressions(lambda expr: ir.transform(put_sums, expr), stage.function)
        if stage.collectives:
            for output in function.outputs:
                key = (ir.InputSource.COMBINED, output.name)
                over = ir.Literal(EVERYTHING, EVERYTHING)
                sums[key] = ir.Apply("total", (output.value, over), type=output.value.type)
        else:
            function = name_outputs(function)
        equations |= {equation.name: equation for equation in function.equations if equation.name not in equations}
    whole = without_copies(replace(function, equations=tuple(equations.values())))
    needed = slice_function(whole, whole.outputs).equations
    graph = dependencies(needed)
    wanted = sorted(graph, key=lambda each: (order.get(each.root, len(order)), each.word == "weight"))
    ordered, _ = sort_topologically(graph, wanted)
    found = {equation.name: equation for equation in needed}
    results = {output.name: output.value for output in whole.outputs}
    return WholeMachine(name, tuple(found[each] for each in ordered), results)


def without_copies(function: ir.Function) -> ir.Function:
    """The function in which what calls left behind does not repeat what has a name already."""
    known: dict[ir.Expr, EquationName] = {}
    for equation in sorted(function.equations, key=lambda each: len(each.name.path)):
        known.setdefault(equation.value, equation.name)
    copies = {e.name: known[e.value] for e in function.equations if len(e.name.path) > 1}

    def change(node: ir.Expr) -> ir.Expr:
        return replace(node, name=copies.get(node.name, node.name)) if isinstance(node, ir.Ref) else node

    return ir.map_expressions(lambda expr: ir.transform(change, expr), function)


def order_of(written: Sequence[ir.Written]) -> dict[EquationName, int]:
    """Where the equations of a rule stand in the spec; those of wrappers come after what is wrapped."""
    names: list[EquationName] = []
    for each in written:
        match each:
            case ast.Binding(target=target):
                names.append(EquationName.of(target.name))
            case ast.Wrapper(name=label, members=members):
                lines = [line for rule in members if isinstance(rule, ast.Rule) for line in rule.statements]
                names += [
                    EquationName.of(line.target.name, layer=label.name)
                    for line in lines
                    if isinstance(line, ast.Binding)
                ]
    return {name: place for place, name in enumerate(names)}


class RulePrinter:
    """One rule of a declaration, whose hypers have symbols already."""

    def __init__(self, rule: ir.Rule, hypers: Mapping[str, Symbol], symbols: Symbols, is_stepping: bool = True) -> None:
        """``is_stepping`` says that there are steps, which are counted; a penalty has none."""
        self.rule, self.hypers, self.symbols, self.is_stepping = rule, hypers, symbols, is_stepping
        order = order_of(rule.written)
        self.step = machine_of("step", rule.step, order)
        self.events = [machine_of(event.name, event.step, order) for event in rule.events]
        self.machines = {machine.name: machine for machine in (self.step, *self.events)}
        self.owners = {name: machine for machine in self.machines.values() for name in machine.results}
        is_matrix = rule.universe is Universe.MATRIX
        self.weight = Symbol("W" if is_matrix else r"\theta", width=0.9)
        self.gradient = Symbol("G" if is_matrix else "g", width=0.7)
        self.rank = symbols.choose(candidates(rule.rank.outputs[0].name)) if rule.rank else None
        self.states = {state.name: self.state_symbol(state) for state in rule.states}
        self.arguments = {
            (event.name, argument.name): symbols.choose(candidates(argument.name))
            for event in rule.events
            for argument in event.parameters
        }
        self.names = {name: self.equation_symbols(machine) for name, machine in self.machines.items()}

    # Symbols

    @property
    def result_symbols(self) -> dict[str, Symbol]:
        """Those of what rules, schedules and penalties give."""
        return {"weight": self.weight, "factor": FACTOR, "loss": LOSS}

    def state_symbol(self, state: ir.State) -> Symbol:
        value = self.owners[state.name].results[state.name]
        if isinstance(value, ir.Input) and value.key == ir.GRAD:
            return self.gradient
        if isinstance(value, ir.Input) and value.key == ir.WEIGHT:
            return self.weight
        return self.symbols.choose(candidates_of_equation(state_name(state.name)), is_stream=True)

    def equation_symbols(self, machine: WholeMachine) -> dict[EquationName, Symbol]:
        """Those of the states that they become, else of their own."""
        found: dict[EquationName, Symbol] = {}
        for name, value in machine.results.items():
            if isinstance(value, ir.Ref) and name in self.states:
                found.setdefault(value.name, self.states[name])
        for name, symbol in self.result_symbols.items():
            result = machine.results.get(name)
            if isinstance(result, ir.Ref) and result.name.word in (name, "next") and not result.name.layer:
                found[result.name] = symbol
        for equation in machine.equations:
            if equation.name not in found:
                found[equation.name] = self.symbols.choose(candidates_of_equation(equation.name), is_stream=True)
        return found

    # What stands for names

    def count_of(self, machine: WholeMachine) -> str:
        """What counts how often a machine has run; empty where nothing does."""
        return "" if not self.is_stepping else STEP if machine is self.step else CALL

    def scribe(self, machine: WholeMachine) -> Scribe:
        count = self.count_of(machine)
        has_steps = count == STEP
        inputs = self.common_inputs()
        inputs[ir.STEP] = Formula(count or STEP, 0.5)
        inputs[ir.WEIGHT] = self.weight.formula(*[f"{STEP}-1"] * has_steps)
        inputs[ir.GRAD] = self.gradient.formula(*[STEP] * has_steps)
        inputs[ir.NOISE] = Formula(r"\xi", 0.6)
        for name in self.states:
            inputs[ir.InputSource.STATE, name] = self.earlier(name, machine, count)
        for (event, name), symbol in self.arguments.items():
            if event == machine.name:
                inputs |= {(source, name): symbol.formula() for source in ARGUMENTS}
        equations = {equation.name: self.now(machine, equation, count) for equation in machine.equations}
        return Scribe(inputs, equations, self.rule.universe)

    def common_inputs(self) -> dict[ir.Key, Formula]:
        inputs = {(ir.InputSource.HYPER, name): symbol.formula() for name, symbol in self.hypers.items()}
        inputs |= {(ir.InputSource.DIMENSION, name): Formula(text, 2.0) for name, text in SIZES.items()}
        if self.rank is not None and self.rule.rank is not None:
            inputs[ir.InputSource.DIMENSION, self.rule.rank.outputs[0].name] = self.rank.formula()
        return inputs

    def now(self, machine: WholeMachine, equation: ir.Equation, count: str) -> Formula:
        """What an equation is called on the left: without an index where it is the same in all steps."""
        symbol = self.names[machine.name][equation.name]
        is_constant = equation.value.type.phase is Phase.CONSTANT and symbol not in self.result_symbols.values()
        return symbol.formula() if is_constant or not count else self.result(symbol, count)

    def result(self, symbol: Symbol, count: str) -> Formula:
        """A symbol with its index; an event's weight, which steps count, has none."""
        return symbol.formula() if symbol is self.weight and count == CALL else symbol.formula(*[count] * bool(count))

    def earlier(self, name: str, machine: WholeMachine, count: str) -> Formula:
        """What a state is called: its stream one step ago, or the latest value of that of another machine."""
        value, symbol = self.owners[name].results[name], self.states[name]
        if is_kept(name, value):
            return symbol.formula("0")
        if self.owners[name] is not machine:
            return symbol.formula()
        is_weight = isinstance(value, ir.Input) and value.key == ir.WEIGHT
        return symbol.formula(f"{count}-2" if is_weight else f"{count}-1")

    # Lines

    def calculation(self, machine: WholeMachine) -> Calculation:
        scribe, count = self.scribe(machine), self.count_of(machine)
        lines: list[PrintedLine] = []
        for equation in machine.equations:
            is_assigned = count == CALL and self.names[machine.name][equation.name] is self.weight
            is_boolean = equation.value.type.kind is Kind.BOOLEAN
            left, sign = scribe.equations[equation.name], r"\gets" if is_assigned else r"\iff" if is_boolean else "="
            lines += fitting_lines(left, equation.value, sign, scribe, partial(self.part, count))
        for name, value in machine.results.items():
            lines += self.renamed(name, value, scribe, count)
        return Calculation(tuple(lines), machine.printed)

    def part(self, count: str, value: ir.Expr) -> Formula:
        """The symbol of a part of an equation that is too long."""
        symbol = self.symbols.choose(part_symbols(), is_stream=True)
        return symbol.formula(*[count] * bool(count and value.type.phase is not Phase.CONSTANT))

    def renamed(self, name: str, value: ir.Expr, scribe: Scribe, count: str) -> Iterator[PrintedLine]:
        """A result that is the value of something else, or an earlier one."""
        symbol = self.result_symbols.get(name) or self.states[name]
        is_printed = isinstance(value, ir.Ref) and scribe.equations[value.name].text == self.result(symbol, count).text
        is_stored = name in self.states and (symbol in (self.weight, self.gradient) or is_kept(name, value))
        if not is_printed and not is_stored:
            sign = r"\gets" if count == CALL and symbol is self.weight else "="
            yield PrintedLine(self.result(symbol, count), scribe.formula(value), sign)

    def first_values(self) -> Iterator[PrintedLine]:
        """What the states are before the first step."""
        given: dict[str, ir.Expr] = {}
        if self.rule.initial is not None:
            values: dict[EquationName, ir.Expr] = {}
            for equation in self.rule.initial.equations:
                values[equation.name] = put_in(equation.value, values)
            given = {output.name: put_in(output.value, values) for output in self.rule.initial.outputs}
        inputs = self.common_inputs()
        inputs[ir.WEIGHT], inputs[ir.GRAD] = self.weight.formula("0"), self.gradient.formula("1")
        inputs[ir.STEP] = Formula("1", 0.5)
        scribe = Scribe(inputs, {}, self.rule.universe)
        for state in self.rule.states:
            is_weight = self.states[state.name] is self.weight
            left = self.states[state.name].formula("-1" if is_weight else "0")
            yield PrintedLine(left, scribe.formula(given.get(state.name, number("0", NOWHERE))))

    def algorithm(self) -> Algorithm:
        events: list[PrintedEvent] = []
        for event, machine in zip(self.rule.events, self.events, strict=True):
            arguments = tuple(self.arguments[event.name, each.name].formula() for each in event.parameters)
            events.append(PrintedEvent(event, arguments, self.calculation(machine)))
        first = tuple(self.first_values())
        step = self.calculation(self.step)
        return Algorithm(self.rule, self.weight, self.gradient, first, step, tuple(events), self.rank_line())

    def rank_line(self) -> PrintedLine | None:
        """The size of the rule's own dimension."""
        if self.rank is None or self.rule.rank is None:
            return None
        value = Scribe(self.common_inputs(), {}, self.rule.universe).formula(self.rule.rank.outputs[0].value)
        return PrintedLine(self.rank.formula(), value)


def state_name(name: str) -> EquationName:
    """A state's name in checkpoints, which may say the wrapper that has it, as words."""
    return EquationName.of(one_word(name.rpartition(".")[2] or name))


def is_kept(name: str, value: ir.Expr) -> bool:
    """Whether a state never changes."""
    return isinstance(value, ir.Input) and value.key == (ir.InputSource.STATE, name)
