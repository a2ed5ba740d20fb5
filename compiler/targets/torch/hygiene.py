"""Names in generated functions: each thing its own, whatever the spec calls the others.

A kernel's scalars come by keyword, and the runtime looks them up by that word: sizes in the bucket, hypers in the
parameter group, arguments in the call of the event, sums among what was combined before. So hypers keep their names,
which users see; arguments and sums that are called like a hyper, or like each other, get a number behind theirs. The
functions of a class share these names, since an event goes to all rules that have it. Everything else in a function is
its own and gets a name that is free there.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import read_argument
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, one_word
from optforge.compiler.ir.operators import OPERATORS

RUNTIME_FUNCTIONS = {name for operator in OPERATORS.values() for name in operator.imports}
TAKEN = {"torch", "math", "abs", "min", "max", *RUNTIME_FUNCTIONS}

ScalarNames: TypeAlias = Mapping[ir.Key, str]


def python_name(name: EquationName | str) -> str:
    """A Python identifier for an equation, a state or what else has a name in a spec."""
    text = one_word(name)
    return f"{text}_" if text in TAKEN or keyword.iskeyword(text) else text


def free_name(wanted: str, taken: set[str]) -> str:
    """The name itself, or with a number behind it where it is taken; it is taken from now on."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def scalar_names(node: ir.Declaration) -> ScalarNames:
    """The keyword of each scalar of a declaration: sizes, the step count and hypers in their order, then the others."""
    names: dict[ir.Key, str] = {**{key: key[1] for key in (*ir.SIZES, *ir.OWN_SIZES)}, ir.STEP: "t"}
    names |= {(ir.InputSource.HYPER, hyper.name): hyper.name for hyper in node.hypers}
    rules = () if isinstance(node, ir.Schedule) else node.rules
    taken = set(names.values())
    for rule in (rule for rule in rules if rule.rank):
        for output in rule.rank.outputs if rule.rank else ():
            names.setdefault((ir.InputSource.DIMENSION, output.name), free_name(output.name, taken))
    events = [event for rule in rules for event in rule.events]
    for key in dict.fromkeys(
        read_argument(each).key for event in events for each in event.parameters if not each.shape
    ):
        names[key] = free_name(key[1], taken)
    taken |= {state.name for rule in rules for state in rule.states}
    stages = [stage for rule in rules for stage in rule.stages]
    for key in dict.fromkeys((ir.InputSource.COMBINED, each.name) for stage in stages for each in stage.collectives):
        names[key] = free_name(key[1], taken)
    return names


def given_names(function: ir.Function) -> ScalarNames:
    """The keywords of a function that stands alone: what it reads, as the spec calls it."""
    return {node.key: node.name for node in inputs_of(function)}
