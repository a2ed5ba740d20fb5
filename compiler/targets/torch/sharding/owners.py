"""What the owners of whole matrices compute in a step on shards, as functions that generators name.

An owner sees what is sent to it, the states that it keeps and numbers, nothing of the parameter. What it is sent may be
an input that others still read, so nothing of that is overwritten; its states are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from optforge.compiler.driver import arrange
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, name_text, read_name
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.shards import Owned
from optforge.compiler.ir.types import FULL
from optforge.compiler.targets.torch.documents import docstring
from optforge.compiler.targets.torch.expressions import Writer, is_runtime_call
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.hygiene import ScalarNames, free_name, python_name
from optforge.compiler.targets.torch.passes import TORCH_REWRITES
from optforge.compiler.targets.torch.statements import lower_function

DOC = "What needs whole matrices; of sharded ones their owner computes it."
SETTINGS = 60  # longer ones are better written in a function


@dataclass(frozen=True, slots=True)
class OwnerCall:
    """What is called for whole matrices, with values in this order and keywords; its text if it is written here."""

    name: str
    values: tuple[str, ...]
    keywords: tuple[str, ...]
    function: PyFunction | None = None


def owner_of(call: Owned, wanted: str, taken: set[str], scalars: ScalarNames) -> OwnerCall | None:
    """How the owner's part is called: an operator of the runtime, or a function; None where that lacks something."""
    direct = operator_of(call, scalars)
    if direct is not None:
        return direct

    def receive(node: ir.Expr) -> ir.Expr:
        if isinstance(node, ir.Input) and node.source is ir.InputSource.COMBINED:
            if node.name in call.carried:
                return replace(node, source=ir.InputSource.STATE, name=left_name(node.name))
            return replace(node, source=ir.stored(node.name)[0])
        return node

    function = ir.map_expressions(lambda expr: ir.transform(receive, expr), call.function)
    renamed = {name: f"{name}.new" for name in call.sent}  # what is sent is not to be overwritten
    given = {each.name: each for each in function.outputs}
    outputs = tuple(given[name] for name in (*call.back, *call.left, *call.kept) if name in given)
    outputs = tuple(replace(each, name=renamed.get(each.name, each.name)) for each in outputs)
    function = arrange(replace(function, outputs=outputs), TORCH_REWRITES)
    values = tuple(name for name in call.sent if ir.stored(name) not in (ir.WEIGHT, ir.GRAD))
    there = (*map(left_name, call.carried), *call.reads, *call.kept)
    order = (*values, *there)
    full = full_among(function, ("weight", "grad", *order))
    like = python_name(full)
    lowered = lower_function(function, free_name(wanted, taken), docstring((DOC,)), order, scalars, like=like)
    if set(lowered.inputs) != {*call.sent, *there} or lowered.names.get(ir.stored(full), like) != like:
        return None
    sent = tuple(name for name in lowered.inputs if name in call.sent)
    keywords = tuple(f"{each}={each}" for each in lowered.scalars)
    return OwnerCall(lowered.name, sent, keywords, lowered)


def full_among(function: ir.Function, order: Iterable[str]) -> str:
    """The first of the function's inputs that is full; the weight if there is none."""
    full = {node.key for node in inputs_of(function) if node.type.shape == FULL}
    return next((name for name in order if ir.stored(name) in full), "weight")


def left_name(name: str) -> str:
    """What stays with the owner and may have come back as well: ranks see nothing of it, as they own other matrices."""
    return name_text(read_name(name).inside("owned"))


def operator_of(call: Owned, scalars: ScalarNames) -> OwnerCall | None:
    """The operator that is all that the owner computes, if its settings can be given by keyword."""
    (first, *others) = call.function.outputs
    values = {equation.name: equation.value for equation in call.function.equations}
    value = values.pop(first.value.name, first.value) if isinstance(first.value, ir.Ref) else first.value
    if others or values or call.carried or call.left or call.kept or call.reads or not is_runtime_call(value):
        return None
    names: dict[ir.Key | EquationName, str] = {**dict(scalars.items())}
    names |= {(ir.InputSource.COMBINED, name): name for name in call.sent}
    count = OPERATORS[value.operator].values
    if any(each.keyword_only for each in OPERATORS[value.operator].parameters[:count]):
        return None
    read = tuple(each.name for each in value.arguments[:count] if isinstance(each, ir.Input))
    settings = tuple(Writer(names).call_arguments(value)[count:])
    if read != call.sent or sum(map(len, settings)) > SETTINGS or not all("=" in each for each in settings):
        return None
    return OwnerCall(value.operator, call.sent, settings)
