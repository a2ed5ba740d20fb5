"""The definitions of functions that calls are printed by, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from optforge.compiler.driver import simplified
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.targets.document.algorithms import SIZES, WholeMachine, machine_of, nodes_of
from optforge.compiler.targets.document.expressions import Scribe
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import PrintedLine
from optforge.compiler.targets.document.notation import call_formula
from optforge.compiler.targets.document.outline import DefinitionMark
from optforge.compiler.targets.document.parts import fitting_lines, part_symbols
from optforge.compiler.targets.document.symbols import Symbols, candidates, candidates_of_equation
from optforge.dsl import ast


@dataclass(frozen=True, slots=True)
class PrintedFunction:
    """A function: its head, and its equations, of which the last gives the result."""

    head: Formula
    lines: tuple[PrintedLine, ...]
    printed: tuple[ir.Expr, ...]


def definitions_in(printed: Iterable[ir.Expr]) -> Iterator[PrintedFunction]:
    """The functions that are called in expressions, and in functions that are; what is called first comes first."""
    known: set[tuple[ast.Function, tuple[str, ...], tuple[str, ...]]] = set()
    waiting = [*calls_in(printed)]
    while waiting:
        mark = waiting.pop(0)
        if (key := (mark.function, mark.parameters, mark.settings)) in known:
            continue
        known.add(key)
        made = printed_function(mark)
        yield made
        waiting += calls_in(made.printed)


def calls_in(exprs: Iterable[ir.Expr]) -> Iterator[DefinitionMark]:
    return (node.mark for node in nodes_of(tuple(exprs)) if isinstance(node.mark, DefinitionMark))


def printed_function(mark: DefinitionMark) -> PrintedFunction:
    """A function with symbols for its parameters and equations."""
    machine = machine_of("function", (ir.Stage(simplified(mark.body)),), {})
    symbols = Symbols()
    symbols.taken |= {"I", "e"}
    parameters = {name: symbols.choose(candidates(name)).formula() for name in mark.parameters}
    inputs = {(ir.InputSource.ARGUMENT, name): symbol for name, symbol in parameters.items()}
    inputs |= {(ir.InputSource.DIMENSION, name): Formula(text, 2.0) for name, text in SIZES.items()}
    head = call_formula(mark, list(parameters.values()))
    names = {equation.name: EquationName.of(equation.name.word) for equation in machine.equations}
    equations = {name: symbols.choose(candidates_of_equation(short)).formula() for name, short in names.items()}
    scribe = Scribe(inputs, equations, mark.body.universe)
    return PrintedFunction(head, tuple(function_lines(machine, head, scribe, symbols)), machine.printed)


def function_lines(machine: WholeMachine, head: Formula, scribe: Scribe, symbols: Symbols) -> Iterator[PrintedLine]:
    """The equations; the last one is that of the result, unless that is another's value."""

    def part(value: ir.Expr) -> Formula:
        return symbols.choose(part_symbols()).formula()

    result = machine.results["result"]
    for equation in machine.equations:
        is_result = isinstance(result, ir.Ref) and result.name == equation.name and equation is machine.equations[-1]
        left = head if is_result else scribe.equations[equation.name]
        yield from fitting_lines(left, equation.value, "=", scribe, part)
    if not machine.equations or not isinstance(result, ir.Ref) or result.name != machine.equations[-1].name:
        yield PrintedLine(head, scribe.formula(result))
