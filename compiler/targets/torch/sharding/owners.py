"""What the owners of whole matrices compute in a step on shards, as functions that generators name.

An owner sees what is sent to it and numbers, nothing of the parameter; what it is sent may be an input that others
still read, so nothing of that is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optforge.compiler.driver import arrange
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.shards import Owned
from optforge.compiler.targets.torch.documents import docstring
from optforge.compiler.targets.torch.expressions import Writer, is_runtime_call
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.hygiene import ScalarNames, free_name
from optforge.compiler.targets.torch.passes import TORCH_REWRITES
from optforge.compiler.targets.torch.statements import lower_function

DOC = "What the owner of whole matrices computes."
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

    def received(node: ir.Expr) -> ir.Expr:
        if isinstance(node, ir.Input) and node.source is ir.InputSource.COMBINED:
            return replace(node, source=ir.stored(node.name)[0])
        return node

    function = ir.map_expressions(lambda expr: ir.transform(received, expr), call.function)
    renamed = {name: f"{name}.new" for name in call.sent}  # what is sent is not to be overwritten
    outputs = tuple(replace(each, name=renamed.get(each.name, each.name)) for each in function.outputs)
    function = arrange(replace(function, outputs=outputs), TORCH_REWRITES)
    states = tuple(name for name in call.sent if ir.stored(name) not in (ir.WEIGHT, ir.GRAD))
    lowered = lower_function(function, free_name(wanted, taken), docstring((DOC,)), states, scalars)
    if set(lowered.inputs) != set(call.sent):
        return None
    return OwnerCall(lowered.name, lowered.inputs, tuple(f"{each}={each}" for each in lowered.scalars), lowered)


def operator_of(call: Owned, scalars: ScalarNames) -> OwnerCall | None:
    """The operator that is all that the owner computes, if its settings can be given by keyword."""
    (first, *others) = call.function.outputs
    values = {equation.name: equation.value for equation in call.function.equations}
    value = values.pop(first.value.name, first.value) if isinstance(first.value, ir.Ref) else first.value
    if others or values or not is_runtime_call(value):
        return None
    names: dict[ir.Key | EquationName, str] = {**dict(scalars.items())}
    names |= {(ir.InputSource.COMBINED, name): name for name in call.sent}
    count = OPERATORS[value.operator].values
    read = tuple(each.name for each in value.arguments[:count] if isinstance(each, ir.Input))
    settings = tuple(Writer(names).call_arguments(value)[count:])
    if read != call.sent or sum(map(len, settings)) > SETTINGS or not all("=" in each for each in settings):
        return None
    return OwnerCall(value.operator, call.sent, settings)
