"""Which states a rule has, and their names: the checkpoint format.

A state belongs to the machine (the step or an event) whose stream it holds. Its name is the
remembered binding's; for a state inside an inlined function the binding that the call stands in,
or ``binding.inner`` where several would share that name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Kind, Phase, Type
from optforge.dsl import errors
from optforge.dsl.source import Span

STATE_KEYS = {"step": "the step count", "kahan": "the rounding error", "master": "the master copy"}
INPUT_NAMES = {"grad": "prev_grad", "weight": "prev_weight"}


@dataclass(frozen=True, slots=True)
class Slot:
    """A state before it is named: the stream it holds, where it was first asked for."""

    owner: str
    stream: ir.Ref | ir.Input
    initial: ir.Expr
    binding: str
    inner: str
    span: Span

    @property
    def ref(self) -> ir.StreamRef:
        """The stream that is remembered, among those of all machines."""
        return ir.StreamRef(self.owner, self.stream.name)

    @property
    def type(self) -> Type:
        return Type(Kind.NUMBER, self.stream.type.shape, Phase.STREAM)


def root_of(stream: ir.Ref | ir.Input, equations: dict[str, ir.Equation]) -> ir.Ref | ir.Input:
    """The stream itself, behind equations that only give it another name."""
    seen: set[str] = set()
    while isinstance(stream, ir.Ref) and stream.name in equations and stream.name not in seen:
        seen.add(stream.name)
        value = equations[stream.name].value
        if not isinstance(value, ir.Ref) and not (
            isinstance(value, ir.Input) and value.source is ir.InputSource.STREAM
        ):
            break
        stream = value
    return stream


def collect_slots(owner: str, function: ir.Function, report: Report) -> dict[str, Slot]:
    """The states of a machine by the name of the stream they hold, in source order."""
    equations = {equation.name: equation for equation in function.equations}
    slots: dict[str, Slot] = {}
    for node in ir.nodes(function):
        if not isinstance(node, ir.Prev):
            continue
        stream = root_of(node.stream, equations)
        found = slots.get(stream.name)
        if found is None:
            name = node.binding if node.inner else node.stream.name
            slots[stream.name] = Slot(owner, stream, node.initial, name, node.inner, node.span)
        elif found.initial != node.initial:
            report(errors.conflicting_initial(node.stream.name, node.initial.span, found.initial.span))
    return slots


def name_slots(slots: list[Slot], report: Report) -> dict[ir.StreamRef, str]:
    """A distinct name for each slot."""
    direct = {slot.binding for slot in slots if not slot.inner}
    wanted = Counter(slot.binding for slot in slots if slot.inner)
    names: dict[ir.StreamRef, str] = {}
    taken: set[str] = set()
    for slot in slots:
        name = INPUT_NAMES.get(slot.binding, slot.binding) if not slot.inner else slot.binding
        if slot.inner and (wanted[name] > 1 or name in direct or name in INPUT_NAMES):
            name = f"{slot.binding}.{slot.inner}"
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
        names[slot.ref] = unique
    return names
