"""Functions of the IR as Python functions: names, lines, and nothing longer than a line.

An expression that does not fit on a line gives its largest part a name of its own; a choice made
in Python that does not fit becomes an ``if`` statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from optforge.compiler.analysis.layouts import layout_of
from optforge.compiler.analysis.scalar_facts import OPPOSITE
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, free_name_among, given_text
from optforge.compiler.ir.operators import Level
from optforge.compiler.passes.careful import with_care
from optforge.compiler.targets.torch.expressions import Writer, is_runtime_call
from optforge.compiler.targets.torch.functions import OWN_NAMES, SCALAR_SOURCES, PyFunction, require_own_names
from optforge.compiler.targets.torch.hygiene import TAKEN, free_name, python_name

WIDTH = 88
LINE_LIMIT = 100  # of names and a call of them that nothing can shorten
CHOICE = 32  # how much longer the line of a choice may be before it becomes an `if` statement
PART = re.compile(r"_part(_\d+)?$")
NOISE = "(noise)"  # what kernels call it, as no state can be called so
WEIGHT = re.compile(r"\bweight\b")


def lower_function(
    function: ir.Function,
    name: str,
    doc: tuple[str, ...],
    states: tuple[str, ...],
    scalars: Mapping[ir.Key, str],
    width: int = WIDTH,
    like: str = "weight",
) -> PyFunction:
    """The Python function of a scheduled IR function; tensors come by position, scalars by keyword.

    ``states`` and ``scalars``, the keyword of each, give the order of the parameters. New tensors are made ``like`` one
    that is full.
    """
    lowered = Lowering(function, states, scalars, width, like=like).lowered(name, doc)
    require_own_names(function, lowered)
    return lowered


@dataclass
class Lowering:
    """One function on its way to Python: the names given so far and the lines written so far."""

    function: ir.Function
    states: tuple[str, ...] = ()
    scalars: Mapping[ir.Key, str] = field(default_factory=dict)
    width: int = WIDTH
    names: dict[ir.Key | EquationName, str] = field(default_factory=dict)  # of inputs by their keys, of equations
    taken: set[str] = field(default_factory=set)  # what else has a name in the text
    lines: list[str] = field(default_factory=list)
    guards: dict[ir.Expr, str] = field(default_factory=dict)
    block: tuple[int, ir.Expr | None] = (0, None)  # where the last block of a guard ends, and the guard
    is_otherwise: bool = False  # whether that is what an `else` begins
    like: str = "weight"

    def __post_init__(self) -> None:
        self.function = with_care(self.function)
        self.equations = {equation.name: equation for equation in self.function.equations}
        self.inputs = {node.key: node for node in inputs_of(self.function)}
        is_flat = layout_of(self.function) == "elementwise"
        self.writer = Writer(self.names, is_flat, like=self.like, rank=(ir.InputSource.DIMENSION, self.function.rank))
        self.last_read = self._last_reads()

    def _last_reads(self) -> dict[ir.Key, int]:
        """The last equation that reads each input; the outputs read at the very end."""
        found: dict[ir.Key, int] = {}
        values = [(e.value, *([e.when] if e.when else [])) for e in self.function.equations]
        values.append(tuple(output.value for output in self.function.outputs))
        for index, group in enumerate(values):
            for node in (node for value in group for node in ir.walk(value)):
                if isinstance(node, ir.Input):
                    found[node.key] = index
        return found

    def lowered(self, name: str, doc: tuple[str, ...]) -> PyFunction:
        scalars = self._name_scalars()
        self.names[ir.WEIGHT], self.names[ir.GRAD] = "weight", "grad"
        read = {name: self._name_stored(name) for name in (*self.states, NOISE) if ir.stored(name) in self.inputs}
        given = {given_text(name): self._name_given(name) for name in self._given()}
        for index, equation in enumerate(self.function.equations):
            self._equation(index, equation)
        returns = tuple(self._returned(output) for output in self.function.outputs)
        reads_weight = ir.WEIGHT in self.inputs or any(WEIGHT.search(line) for line in (*self.lines, *returns))
        tensors = ["weight"] if reads_weight else []
        tensors += ["grad"] if ir.GRAD in self.inputs else []
        positional = [*tensors, *read.values(), *given.values()]
        return PyFunction(
            name,
            signature_lines(name, positional, scalars),
            doc,
            tuple(self.lines),
            return_lines(returns),
            (*tensors, *read, *given),
            tuple(scalars),
            tuple(output.name for output in self.function.outputs),
            frozenset(self.writer.used),
            {key: text for key, text in self.names.items() if not isinstance(key, EquationName)},
            frozenset({(ir.InputSource.DIMENSION, self.function.rank)}) if self.function.rank else frozenset(),
        )

    # Names

    def _name_scalars(self) -> list[str]:
        """The keywords of what the function reads: sizes, the step count and hypers in their order, then the others."""
        order = [key for key in self.scalars if key[0] in OWN_NAMES]
        read = [key for key, node in self.inputs.items() if node.source in SCALAR_SOURCES]
        read.sort(key=lambda key: order.index(key) if key in order else len(order))
        self.names |= {key: self.scalars[key] for key in read}
        return [self.scalars[key] for key in read]

    def _name_stored(self, name: str) -> str:
        """The parameter of a state, or of the noise, which comes last."""
        found = self.names[ir.stored(name)] = self.free(python_name("noise" if name == NOISE else name))
        return found

    def _given(self) -> list[str]:
        """The arguments of the event that are tensors."""
        return [name for source, name in self.inputs if source is ir.InputSource.GIVEN]

    def _name_given(self, name: str) -> str:
        text = self.names[ir.InputSource.GIVEN, name] = self.free(python_name(name))
        return text

    def free(self, wanted: str) -> str:
        return free_name(wanted, {*self.names.values()} | self.taken | TAKEN)

    def _name_equation(self, index: int, equation: ir.Equation) -> str:
        """The equation's own name; that of an input which nobody reads any more may be taken over."""
        outputs = [output.name for output in self.function.outputs if is_ref(output.value, equation.name)]
        for text in (python_name(equation.name), *map(python_name, outputs)):
            owners = [key for key, value in self.names.items() if value == text]
            if text in self.taken or (not owners and text in TAKEN):
                continue
            if all(not isinstance(key, EquationName) and self._ends(key, index) for key in owners):
                return text
        return self.free(python_name(equation.name))

    def _ends(self, key: ir.Key, index: int) -> bool:
        """Whether the input is a tensor that nothing reads any more."""
        is_tensor = key[0] in (ir.InputSource.STREAM, ir.InputSource.STATE)
        is_like = key != ir.WEIGHT and self.names[key] == self.like  # which new tensors may be made like
        return is_tensor and key != ir.GRAD and not is_like and self.last_read.get(key, -1) <= index

    # Lines

    def _equation(self, index: int, equation: ir.Equation) -> None:
        name = self._name_equation(index, equation)
        if equation.when is None:
            self.lines.extend(self._assigned(name, equation, self.width))
        else:
            body = [f"    {line}" for line in self._assigned(name, equation, self.width - 4)]
            head = self._guard_head(equation.when)
            self.is_otherwise = head == ["else:"] if head else self.is_otherwise
            self.lines.extend([*head, *body])
            self.block = (len(self.lines), equation.when)
        self.names[equation.name] = name

    def _guard_head(self, when: ir.Expr) -> list[str]:
        """``if when:``; nothing where the lines end in the same block, and ``else:`` where they end in its opposite."""
        end, current = self.block
        if end == len(self.lines) and current is not None:
            if when == current:
                return []
            if is_opposite(when, current) and not self.is_otherwise:
                return ["else:"]
        head = f"if {self.writer.text(when)}:"
        return [head if fits(head, self.width) else f"if {self._named_guard(when)}:"]

    def _named_guard(self, when: ir.Expr) -> str:
        """A name for a condition that no line can hold."""
        if when not in self.guards:
            name = self.free("is_needed")
            self.taken.add(name)
            self.lines.extend(self.assigned(name, when, self.width))
            self.guards[when] = name
        return self.guards[when]

    def _assigned(self, name: str, equation: ir.Equation, width: int) -> list[str]:
        value = equation.value
        if not equation.in_place:
            return self.assigned(name, value, width)
        assert isinstance(value, ir.Apply)
        lines, short = self.shortened(value, width, name, self.writer.in_place)
        return [*lines, f"{name} = {self.writer.in_place(short)}"]

    def assigned(self, name: str, value: ir.Expr, width: int) -> list[str]:
        """``name = value`` in lines of at most ``width`` (less the indentation of a function)."""
        text = self.writer.text(value)
        is_choice = isinstance(value, ir.Select) and value.condition.type.is_scalar_phase
        if fits(f"{name} = {text}", width + CHOICE if is_choice else width):
            return [f"{name} = {text}"]
        if isinstance(value, ir.Select) and is_choice:
            lines, test = self.shortened(value.condition, width, "condition", self.alternative)
            condition = self.alternative(test)
            short = f"{name} = {self.alternative(value.then)} if {condition} else {self.writer.text(value.otherwise)}"
            if fits(short, width + CHOICE):
                return [*lines, short]
            return [
                *lines,
                f"if {condition}:",
                *(f"    {line}" for line in self.assigned(name, value.then, width - 4)),
                "else:",
                *(f"    {line}" for line in self.assigned(name, value.otherwise, width - 4)),
            ]
        lines, rest = self.shortened(value, width, name)
        if is_runtime_call(rest) and not fits(f"{name} = {self.writer.text(rest)}", width):
            return [*lines, *call_lines(name, rest.operator, self.writer.call_arguments(rest), width)]
        if isinstance(rest, ir.Select) and len(self.writer.text(rest)) + len(name) > LINE_LIMIT:
            return [*lines, *call_lines(name, "torch.where", self.writer.where_arguments(rest), width)]
        return [*lines, f"{name} = {self.writer.text(rest)}"]

    def alternative(self, expr: ir.Expr) -> str:
        """The expression as it stands before ``else``."""
        return self.writer.text(expr, Level.OR)

    def shortened(
        self, value: ir.Expr, width: int, name: str, write: Callable[[ir.Expr], str] | None = None
    ) -> tuple[list[str], ir.Expr]:
        """Lines that name parts of the value, and the value with these names."""
        lines: list[str] = []
        write = write or self.writer.text
        while not fits(f"{name} = {write(value)}", width):
            found = self.part_to_name(value, name)
            if found is None:
                break
            wanted, part = found
            own = free_name_among([*self.names, *self.equations], EquationName.of(wanted, scope="line"))
            self.names[own] = self.free(wanted)
            lines += self.assigned(self.names[own], part, width)
            value = put_in(value, part, ir.Ref(own, type=part.type, span=part.span))
        return lines, value

    def part_to_name(self, value: ir.Expr, name: str) -> tuple[str, ir.Expr] | None:
        """A part worth a name of its own: the update, a denominator, or just the longest part."""
        match value:
            case ir.Apply(operator="sub", arguments=(_, update)) if name == "weight" and self.is_long(update):
                return "update", update
            case ir.Apply(operator="div" | "ieee_div", arguments=(_, denominator)) if self.is_long(denominator):
                return "denominator", denominator
        parts = [node for node in strict_parts(value) if self.is_long(node)]
        if not parts:
            return None
        return f"{PART.sub('', name)}_part", max(parts, key=lambda node: len(self.writer.text(node)))

    def is_long(self, node: ir.Expr) -> bool:
        return isinstance(node, ir.Apply | ir.Select) and len(self.writer.text(node)) > 12

    def _returned(self, output: ir.Output) -> str:
        """An output; what lies in the buffer of another output is copied before it is given away."""
        text = self.writer.text(output.value)
        own = {ir.stored(output.name), ir.GRAD}
        lent = set() if output.value.type.is_scalar_phase else self.buffers(output.value) - own
        return f"{text}.clone()" if lent else text

    def buffers(self, expr: ir.Expr) -> set[ir.Key]:
        """The inputs in whose storage a value may lie."""
        match expr:
            case ir.Input():
                return {expr.key}
            case ir.Ref(name=name):
                equation = self.equations[name]
                if equation.in_place:
                    assert isinstance(equation.value, ir.Apply)
                    return self.buffers(equation.value.arguments[0])
                return self.buffers(equation.value)
            case ir.Apply(operator="fill" | "transpose" | "leading", arguments=(inner, *_)):
                return set() if inner.type.is_scalar_phase else self.buffers(inner)
            case ir.Select() if expr.condition.type.is_scalar_phase:
                return self.buffers(expr.then) | self.buffers(expr.otherwise)
            case _:
                return set()


def signature_lines(
    name: str, positional: list[str], keywords: list[str], width: int = LINE_LIMIT, returns: str = ""
) -> tuple[str, ...]:
    """``def name(positional, *, keywords):``, one parameter a line where it is long."""
    parameters = [*positional, *(["*", *keywords] if keywords else [])]
    flat = f"def {name}({', '.join(parameters)}){returns}:"
    if len(flat) <= width:
        return (flat,)
    return (f"def {name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}:")


def call_lines(name: str, function: str, arguments: list[str], width: int) -> list[str]:
    """``name = function(...)`` with one argument, and one triple of a long setting, a line."""
    lines = [f"{name} = {function}("]
    for argument in arguments:
        if fits(f"    {argument},", width):
            lines.append(f"    {argument},")
        else:
            head, triples = argument.removesuffix("))").split("((")
            lines += [f"    {head}(", *(f"        ({triple})," for triple in triples.split("), (")), "    ),"]
    return [*lines, ")"]


def return_lines(values: tuple[str, ...]) -> tuple[str, ...]:
    """The returned tuple."""
    flat = f"return {', '.join(values)}" if len(values) > 1 else f"return ({''.join(f'{value},' for value in values)})"
    if fits(flat, WIDTH):
        return (flat,)
    return ("return (", *(f"    {value}," for value in values), ")")


def fits(text: str, width: int) -> bool:
    return len(text) + 4 <= width


def is_opposite(guard: ir.Expr, other: ir.Expr) -> bool:
    """Whether ``guard`` is ``not other``, or the opposite comparison of numbers that are no NaN."""
    if not (isinstance(guard, ir.Apply) and isinstance(other, ir.Apply)):
        return False
    if guard.operator == "not":
        return guard.arguments == (other,)
    return guard.operator == OPPOSITE.get(other.operator) and guard.arguments == other.arguments


def is_ref(expr: ir.Expr, name: EquationName) -> bool:
    return isinstance(expr, ir.Ref) and expr.name == name


def strict_parts(value: ir.Expr) -> list[ir.Expr]:
    """All nodes below the root except those in the branches of a choice made in Python."""
    found: list[ir.Expr] = []
    stack = list(strict_children(value))
    while stack:
        node = stack.pop()
        found.append(node)
        stack.extend(strict_children(node))
    return found


def strict_children(node: ir.Expr) -> tuple[ir.Expr, ...]:
    if isinstance(node, ir.Select) and node.condition.type.is_scalar_phase:
        return (node.condition,)
    return ir.children(node)


def put_in(value: ir.Expr, part: ir.Expr, name: ir.Ref) -> ir.Expr:
    """The value with every occurrence of ``part`` below its root replaced."""

    def change(node: ir.Expr) -> ir.Expr:
        return name if node == part else ir.map_children(change, node)

    return ir.map_children(change, value)
