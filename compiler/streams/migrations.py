"""``was``: typed functions from the states and hypers of older checkpoints to those of today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolved import RawWas
from optforge.compiler.frontend.types.inference import Inference, Types
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import FunctionName, Task
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.ir.types import Kind, Type, Universe
from optforge.dsl import errors


def check_past(
    was: Sequence[RawWas], states: Sequence[ir.State], hypers: Sequence[ir.Hyper], report: Report
) -> tuple[ir.Function, ...]:
    """A typed function for each state that was something else; every old state has the shape of the new one."""
    found = []
    types = {state.name: state.type for state in states}
    kinds = {(ir.InputSource.HYPER, hyper.name): hyper.kind for hyper in hypers}
    for each in was:
        if each.target in types:
            found.append(past_function(each, types[each.target], kinds, report))
        elif not each.is_inherited:
            hint = errors.suggest_nearest(each.target, types) or (
                f"it has {errors.join_quoted(types, 'and')}" if types else None
            )
            report(errors.bad_past(f"`{each.target}` is no state of this rule", each.span, hint))
    return tuple(found)


def past_function(was: RawWas, target: Type, kinds: Mapping[ir.Key, Kind], report: Report) -> ir.Function:
    """The function of one state. Elementwise, so that it need not know how a state is laid out."""
    inputs = [node for node in ir.walk(was.value) if isinstance(node, ir.Input)]
    known: Types = {node.key: target for node in inputs if node.source is ir.InputSource.STATE}
    value = Inference("was", Universe.MATRIX, "", known, kinds, {}, report).typed(was.value)
    if value.type.kind is not Kind.NUMBER:
        report(errors.wrong_kind("`was`", Kind.NUMBER.value, value.type.kind.value, value.span))
    for node in ir.walk(value):
        if isinstance(node, ir.Apply) and not (OPERATORS[node.operator].elementwise or node.type.is_scalar_phase):
            hint = "use elementwise operators, hyperparameters and `t`"
            report(errors.bad_past(f"`{node.operator}` is more than a renaming or rescaling", node.span, hint))
    return ir.Function(FunctionName(task=Task.PAST), Universe.TENSOR, (), (ir.Output(was.target, value),))


def check_hyper_past(was: Sequence[RawWas], hypers: Sequence[ir.Hyper], report: Report) -> tuple[ir.Function, ...]:
    """A typed function for each hyper that was something else; an old one standing alone is of the new one's kind."""
    found = []
    kinds = {hyper.name: hyper.kind for hyper in hypers}
    for each in (each for each in was if each.target in kinds):
        wanted = kinds[each.target]
        alone = {each.value.key: wanted} if isinstance(each.value, ir.Input) else {}
        value = Inference("was", Universe.TENSOR, "", {}, alone, {}, report).typed(each.value)
        if value.type.kind is not wanted:
            report(errors.wrong_kind(f"`{each.target} was`", wanted.value, value.type.kind.value, value.span))
        found.append(ir.Function(FunctionName(task=Task.PAST), Universe.TENSOR, (), (ir.Output(each.target, value),)))
    return tuple(found)
