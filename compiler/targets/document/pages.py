"""Pages: all that is printed of a program, as data that LaTeX and Markdown lay out in their own ways.

Text for people is a sequence of strings and formulas; strings are plain, whoever lays them out escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Universe
from optforge.compiler.targets.base import roles_text
from optforge.compiler.targets.document.algorithms import (
    FACTOR,
    LOSS,
    Algorithm,
    RulePrinter,
    nodes_of,
)
from optforge.compiler.targets.document.definitions import definitions_in
from optforge.compiler.targets.document.expressions import Scribe, is_broadcast, literal_formula
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import PrintedLine
from optforge.compiler.targets.document.notation import explanation
from optforge.compiler.targets.document.operations import is_tensor
from optforge.compiler.targets.document.outline import CALL
from optforge.compiler.targets.document.symbols import Symbols, candidates
from optforge.dsl import ast
from optforge.dsl.printer import print_expression


@dataclass(frozen=True, slots=True)
class Code:
    """Words of the spec, as they are."""

    text: str


Prose = tuple["str | Formula | Code", ...]


@dataclass(frozen=True, slots=True)
class HyperRow:
    """A hyperparameter in the table of them; one without a symbol is called by its name."""

    symbol: Formula | None
    name: str
    default: Formula | None
    conditions: tuple[Formula, ...]
    doc: str


class BlockKind(Enum):
    """What lines are computed for."""

    LOOP = "for each of something"
    EVENT = "whenever it is called"
    FUNCTION = "for its arguments"


@dataclass(frozen=True, slots=True)
class PrintedBlock:
    """Lines with what they are computed for: each step, each parameter, or each call of an event."""

    kind: BlockKind
    heading: Prose
    lines: tuple[PrintedLine, ...]


@dataclass(frozen=True, slots=True)
class PrintedAlgorithm:
    """A rule, a schedule or a penalty."""

    caption: Prose
    first: tuple[PrintedLine, ...]
    blocks: tuple[PrintedBlock, ...]
    notes: tuple[Prose, ...]


@dataclass(frozen=True, slots=True)
class PrintedDeclaration:
    """An optimizer, schedule or penalty."""

    name: str
    doc: str
    hypers: tuple[HyperRow, ...]
    conditions: tuple[Formula, ...]  # those that are no single hyper's
    algorithms: tuple[PrintedAlgorithm, ...]
    notes: tuple[Prose, ...]


AROUND_DESCENT: Prose = (
    *("What is wrapped is gradient descent here, with ", Code("lr"), " and ", Code("weight_decay")),
    " as its hyperparameters; it stands for any optimizer.",
)
RESERVED_SYMBOLS = {"W", "G", r"\theta", "g", "t", "k", "f", "I", "L", "e"}


def printed_program(program: ir.Program) -> Iterator[PrintedDeclaration]:
    """All declarations; what the file says of itself stands with the first."""
    for number, node in enumerate((*program.declarations, *program.wrappers)):
        yield printed_declaration(node, program.doc if number == 0 else "", number >= len(program.declarations))


def printed_declaration(node: ir.Declaration, doc: str, is_wrapper: bool) -> PrintedDeclaration:
    """A declaration with symbols for all that it names; ``doc`` is said before what it says of itself."""
    rules = () if isinstance(node, ir.Schedule) else node.rules
    symbols = Symbols([state.name for rule in rules for state in rule.states])
    symbols.taken |= RESERVED_SYMBOLS
    hypers = {hyper.name: symbols.choose(candidates(hyper.name)) for hyper in node.hypers}
    inputs = {(ir.InputSource.HYPER, name): symbol.formula() for name, symbol in hypers.items()}
    scribe = Scribe(inputs, {}, Universe.TENSOR)
    rows = tuple(
        HyperRow(
            None if hypers[hyper.name].is_word else hypers[hyper.name].formula(),
            hyper.name,
            literal_formula(hyper.default) if hyper.default else None,
            tuple(scribe.formula(r.condition) for r in node.requirements if r.subject == hyper.name),
            hyper.doc,
        )
        for hyper in node.hypers
    )
    others = [r.condition for r in node.requirements if r.subject not in hypers]
    conditions = tuple(scribe.formula(condition) for condition in others)
    algorithms = [
        RulePrinter(rule, hypers, symbols.copy(), not isinstance(node, ir.Penalty)).algorithm()
        for rule in rules_of(node)
    ]
    printed = [expr for each in algorithms for expr in each.printed]
    functions = list(definitions_in(printed))
    pages = tuple(printed_algorithm(node, each) for each in algorithms)
    if functions:
        blocks = tuple(PrintedBlock(BlockKind.FUNCTION, (each.head,), each.lines) for each in functions)
        pages += (PrintedAlgorithm((f"Functions of {node.name}",), (), blocks, ()),)
        printed += [expr for each in functions for expr in each.printed]
    said = "\n\n".join(dict.fromkeys(filter(None, (doc, node.doc))))
    notes = (*([AROUND_DESCENT] if is_wrapper else []), *notes_on(algorithms, printed))
    return PrintedDeclaration(node.name, said, rows, conditions, pages, notes)


def rules_of(node: ir.Declaration) -> tuple[ir.Rule, ...]:
    """The rules; that of a schedule has no parameters."""
    if not isinstance(node, ir.Schedule):
        return node.rules
    step = (ir.Stage(node.function),)
    return (ir.Rule(node.name, (), Universe.TENSOR, (), step, None, (), (), node.written),)


def printed_algorithm(node: ir.Declaration, made: Algorithm) -> PrintedAlgorithm:
    """Captions and headings around the lines of a rule."""
    rule = made.rule
    if isinstance(node, ir.Schedule):
        factor: Prose = (", with the factor ", FACTOR.formula("t"), " on the learning rate of every group")
        block = PrintedBlock(BlockKind.LOOP, (*STEPS, *factor), made.step.lines)
        return PrintedAlgorithm((node.name,), (), (block,), ())
    parameters = f"{roles_text(rule)} parameters"
    caption: Prose = (f"{node.name}, for {parameters}" if len(node.rules) > 1 else node.name,)
    if isinstance(node, ir.Penalty):
        heading: Prose = (
            f"each of the {parameters} ",
            made.weight.formula(),
            ", with ",
            LOSS.formula(),
            " added to the loss",
        )
        return PrintedAlgorithm(caption, (), (PrintedBlock(BlockKind.LOOP, heading, made.step.lines),), ())
    blocks = [PrintedBlock(BlockKind.LOOP, step_heading(made), made.step.lines)]
    for event in made.events:
        arguments: list[str | Formula | Code] = []
        for argument in event.arguments:
            arguments += [", " if arguments else "", argument]
        call: Prose = (Code(event.event.name), "(", *arguments, ")")
        blocks.append(PrintedBlock(BlockKind.EVENT, call, event.calculation.lines))
    return PrintedAlgorithm(caption, made.first, tuple(blocks), tuple(rule_notes(made)))


STEPS: Prose = ("each step ", Formula(r"t = 1, 2, \dots", 6.0))


def step_heading(made: Algorithm) -> Prose:
    """What is given in each step."""
    if not made.reads_gradient:
        return STEPS
    gradient, weight = made.gradient.formula("t"), made.weight.formula("t-1")
    return (*STEPS, ", with the gradient ", gradient, " of the loss at ", weight)


def rule_notes(made: Algorithm) -> Iterator[Prose]:
    """What is said of one rule: how it sees matrices, what its dimension is, and whose equations these are."""
    rule = made.rule
    sides = {"wide": r"n_{\mathrm{row}} \le n_{\mathrm{col}}", "tall": r"n_{\mathrm{row}} \ge n_{\mathrm{col}}"}
    if rule.orientation:
        yield ("Matrices are transposed where that is needed, so that ", Formula(sides[rule.orientation], 6.0), ".")
    if made.rank is not None:
        size = "is the whole part of that, at least 1 and at most the smaller side of the matrix"
        yield (made.rank.left, " = ", made.rank.right, f": it {size}.")
    for each in rule.written:
        if isinstance(each, ast.Delegate):
            given = ", ".join(f"{name.name}={print_expression(value)}" for name, value in each.keywords)
            yield ("These equations are those of ", Code(f"{each.optimizer.name}({given})"), ".")


# Notes below all equations


def notes_on(algorithms: Sequence[Algorithm], printed: Sequence[ir.Expr]) -> Iterator[Prose]:
    """What the signs mean that not every paper has, as far as these equations have them."""
    nodes = list(nodes_of(printed))
    applied = [node for node in nodes if isinstance(node, ir.Apply) and node.operator != CALL]
    if any(node.operator in ELEMENTWISE and sum(map(is_tensor, node.arguments)) for node in applied):
        yield (
            "Products ",
            Formula(r"\odot", 0.8),
            ", quotients, roots, powers and functions of numbers are taken element by element.",
        )
    if any(axis_of(node) in ("row", "col") for node in applied):
        yield ("A norm or mean with the index row has a value for each row, and with col for each column.",)
    if any(map(is_broadcast, applied)):
        yield ("What has one value for each row or column goes with all elements of it.",)
    if any(node.operator == "total" for node in applied):
        yield (Formula(r"\sum_{\mathcal{P}}", 1.5), " is the sum over all parameters with a gradient.")
    if any(isinstance(n, ir.Input) and n.source is ir.InputSource.DIMENSION for n in nodes):
        yield (
            Formula(r"n_{\mathrm{row}}", 2.0),
            " and ",
            Formula(r"n_{\mathrm{col}}", 2.0),
            " are the numbers of rows and columns.",
        )
    if any(made.events for made in algorithms):
        yield ("A call of an event has the number ", Formula("k", 0.5), "; what has no index is the latest value.")
    notes = (explanation(node) for node in applied)
    yield from dict.fromkeys(note for note in notes if note)


ELEMENTWISE = {"mul", "div", "pow", "sqrt", "abs", "sign", "exp", "log", "tanh"}


def axis_of(node: ir.Apply) -> str:
    last = node.arguments[-1] if node.arguments else None
    return str(last.value) if isinstance(last, ir.Literal) and isinstance(last.value, str) else ""
