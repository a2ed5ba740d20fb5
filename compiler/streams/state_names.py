"""Which states a rule has, and their names: the checkpoint format.

A state belongs to the machine (the step or an event) whose stream it holds. Its name is the
remembered binding's; for a state inside an inlined function the binding that the call stands in,
or ``binding.inner`` where several would share that name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import Kind, Phase, Type
from optforge.compiler.streams.value_numbers import ValueNumbers
from optforge.dsl import errors
from optforge.dsl.source import Span

STATE_KEYS = {"step": "the step count", "kahan": "the rounding error", "master": "the master copy"}
INPUT_NAMES = {"grad": "prev_grad", "weight": "prev_weight"}


Remembered: TypeAlias = tuple[
    str, EquationName | ir.Key
]  # a machine, and what it keeps: an equation, or the data itself


def identity(stream: ir.Ref | ir.Input) -> EquationName | ir.Key:
    """What tells a stream from the others of its machine."""
    return stream.name if isinstance(stream, ir.Ref) else stream.key


@dataclass(frozen=True, slots=True)
class Slot:
    """A state before it is named: the stream it holds, where it was first asked for."""

    owner: str
    stream: ir.Ref | ir.Input
    initial: ir.Expr
    binding: EquationName
    inner: str
    span: Span

    @property
    def remembered(self) -> Remembered:
        """The stream, among those of all machines."""
        return self.owner, identity(self.stream)

    @property
    def type(self) -> Type:
        return Type(Kind.NUMBER, self.stream.type.shape, Phase.STREAM)


def root_of(stream: ir.Ref | ir.Input, equations: dict[EquationName, ir.Equation]) -> ir.Ref | ir.Input:
    """The stream itself, behind equations that only give it another name."""
    seen: set[EquationName] = set()
    while isinstance(stream, ir.Ref) and stream.name in equations and stream.name not in seen:
        seen.add(stream.name)
        value = equations[stream.name].value
        if not isinstance(value, ir.Ref) and not (
            isinstance(value, ir.Input) and value.source is ir.InputSource.STREAM
        ):
            break
        stream = value
    return stream


def collect_slots(owner: str, function: ir.Function, report: Report) -> dict[Remembered, Slot]:
    """The states of a machine by the stream that they hold, in source order."""
    equations = {equation.name: equation for equation in function.equations}
    slots: dict[Remembered, Slot] = {}
    numbers = ValueNumbers(equations)
    for node in ir.nodes(function):
        if not isinstance(node, ir.Prev):
            continue
        slot = Slot(owner, root_of(node.stream, equations), node.initial, binding_of(node), node.inner, node.span)
        found = slots.setdefault(slot.remembered, slot)
        if found.initial != slot.initial and numbers.number(found.initial) != numbers.number(slot.initial):
            shown = node.stream.name.word if isinstance(node.stream, ir.Ref) else node.stream.name
            report(errors.conflicting_initial(shown, slot.initial.span, found.initial.span))
    return slots


def binding_of(node: ir.Prev) -> EquationName:
    """What a state is named after: the stream, or the equation in which a function was called that remembers it."""
    if node.inner:
        return node.binding
    return node.stream.name if isinstance(node.stream, ir.Ref) else EquationName.of(node.stream.name)


def name_slots(slots: list[Slot], report: Report) -> dict[Remembered, str]:
    """A distinct name for each slot."""
    direct = {slot.binding for slot in slots if not slot.inner}
    wanted = Counter(slot.binding for slot in slots if slot.inner)
    names: dict[Remembered, str] = {}
    taken: set[str] = set()
    for slot in slots:
        binding = path_text(slot.binding)
        name = INPUT_NAMES.get(binding, binding) if not slot.inner else binding
        if slot.inner and (wanted[slot.binding] > 1 or slot.binding in direct or slot.binding.word in INPUT_NAMES):
            name = f"{binding}.{slot.inner}"
        if name in taken and slot.owner != "step":
            name = f"{slot.owner}.{name}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}{count}"
        if unique in STATE_KEYS or unique.endswith("_step"):
            reason = f"every state keeps {STATE_KEYS.get(unique, 'the count of an event')} under that name"
            report(errors.bad_state_name(unique, reason, slot.span))
        taken.add(unique)
        names[slot.remembered] = unique
    return names


def path_text(name: EquationName) -> str:
    """A path as checkpoints have it."""
    words = [f"{word}.{number}" if number > 1 else word for word, number in name.path]
    return ".".join([name.layer, *words] if name.layer else words)
