"""A finding as a Python script of its own: the spec, the other class, plain numbers, and what differs in the end.

The script needs torch, optforge and the other class, nothing of this package; it ends with status 1 and says by how
much the two differ, or with status 0 when they do not (any more).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from optforge.compiler.verify.differential import data
from optforge.compiler.verify.differential.plan import Scenario, Step
from optforge.compiler.verify.differential.search import Mismatch
from optforge.compiler.verify.differential.setup import Setup
from optforge.dsl.source import Source

HEAD = '''\
"""{title}

Written by `optforge fuzz`: run it from the same folder.
"""

import sys
from math import inf, nan

import torch
from torch import nn

import optforge

sys.path.insert(0, "")
{import_other}

{spec}

def parameters(weights):
    return [nn.Parameter(torch.tensor(weight, dtype=torch.{dtype})) for weight in weights]


def strided(gradient):
    """The same numbers, but not one after the other in memory."""
    if gradient.ndim < 2:
        return torch.stack([gradient, torch.zeros_like(gradient)], dim=1)[:, 0] if gradient.ndim else gradient
    return gradient.transpose(0, 1).contiguous().transpose(0, 1)


def set_gradients(params, gradients):
    for p, gradient in zip(params, gradients):
        p.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.{dtype})

'''
ENDS: Mapping[str, str] = {
    "weights": """\
difference = float((theirs[{parameter}] - ours[{parameter}]).detach().flatten()[{element}])
print("the spec gives", ours[{parameter}].tolist())
print("the other gives", theirs[{parameter}].tolist())
if not abs(difference) <= {allowed!r}:
    sys.exit(f"step {step}, parameter {parameter}, element {element}: they differ by {{difference!r}}")
""",
    "gradient": """\
for number, (p, q) in enumerate(zip(ours, theirs)):
    if p.grad is not None and (q.grad is None or not torch.equal(p.grad.nan_to_num(), q.grad.nan_to_num())):
        sys.exit(f"step {step}: the gradient of parameter {{number}} is {{q.grad}} instead of {{p.grad}}")
""",
    "loss": """\
if found is None or float(found) != 0.5:
    sys.exit(f"step {step}: step(closure) returns {{found!r}} instead of the closure's loss")
""",
    "error": "",
}
CLOSURE = """
def closure():
    set_gradients({params}, gradients)
    return torch.tensor(0.5)

"""


def script(setup: Setup, finding: Mismatch) -> str:
    """The text of the script."""
    scenario, difference = finding.scenario, finding.difference
    name = setup.pair.declaration.name
    head = HEAD.format(
        title=f"{name} and {setup.target or 'another optimizer'} differ at step {difference.step}.",
        import_other=imported(setup.pair.factory),
        spec=quote_spec(setup.source, name),
        dtype=scenario.dtype,
    )
    last = max(difference.step, 1)
    lines = [head, *setup_lines(setup, scenario), *steps(setup, scenario, last)]
    scale = 0.0 if difference.relative == 0 else abs(difference.values[1] - difference.values[0]) / difference.relative
    allowed = difference.bound * scale if np.isfinite(difference.bound * scale) else 0.0
    end = ENDS[difference.what].format(
        step=difference.step, parameter=difference.parameter, element=difference.element, allowed=allowed
    )
    return "\n".join([*lines, end]).rstrip("\n") + "\n"


def imported(factory: Callable[..., Any]) -> str:
    """How the script gets the other class: imported, or its source where it stands inside a function."""
    name, module = getattr(factory, "__qualname__", ""), getattr(factory, "__module__", "")
    if name.isidentifier() and module not in ("", "__main__", "builtins"):
        return f"from {module} import {name} as Other"
    try:
        source = textwrap.dedent(inspect.getsource(factory))
    except (OSError, TypeError):
        source = ""
    if source.startswith(("class ", "def ")):
        return f"\n\n{source}\n\nOther = {factory.__name__}"
    return "Other = ...  # make this the optimizer that was compared"


def quote_spec(source: Source, name: str) -> str:
    """The spec in the script, where it needs no neighbours of its own; else its path."""
    from optforge.compiler.driver import check_source

    if check_source(source).program is None:
        return f"Ours = optforge.load({source.path!r}, {name!r})\n"
    quotes = "'''" if '"""' in source.text else '"""'
    text = source.text.replace("\\", "\\\\")
    return f"SPEC = {quotes}\\\n{text}{quotes}\nOurs = optforge.compile_source(SPEC).{name}\n"


def setup_lines(setup: Setup, scenario: Scenario) -> Iterator[str]:
    """The parameters of both sides and the two optimizers."""
    yield "WEIGHTS = ["
    yield from (f"    {each.tolist()!r}," for each in data.weights(scenario))
    yield "]"
    yield "ours, theirs = parameters(WEIGHTS), parameters(WEIGHTS)"
    yield f"one = Ours({our_groups(scenario)}, {keywords(scenario.groups[0].hypers)})"
    yield other_line(setup, scenario)


def our_groups(scenario: Scenario) -> str:
    groups = []
    for number, group in enumerate(scenario.groups):
        places = [place for place, owner in enumerate(scenario.owners) if owner == number]
        role = {} if group.role is None else {"rule": group.role}
        groups.append(group_text("ours", places, {**group.hypers, **role}))
    return f"[{', '.join(groups)}]"


def other_line(setup: Setup, scenario: Scenario) -> str:
    pair = setup.pair
    groups = []
    for number, group in enumerate(scenario.groups):
        role = {pair.role_key: group.role} if pair.role_key and group.role else {}
        hypers = {**pair.names.translated(group.hypers), **role}
        groups.append(group_text("theirs", scenario.places(number), hypers))
    first = keywords(pair.names.translated(scenario.groups[0].hypers))
    if len(groups) == 1 and not pair.role_key:
        return f"other = Other({chosen('theirs', scenario.places(0))}, {first})"
    return f"other = Other([{', '.join(groups)}], {first})"


def group_text(side: str, places: Any, keys: Mapping[str, Any]) -> str:
    items = [f'"params": {chosen(side, places)}', *(f'"{name}": {value!r}' for name, value in keys.items())]
    return f"{{{', '.join(items)}}}"


def chosen(side: str, places: Any) -> str:
    return f"[{', '.join(f'{side}[{place}]' for place in places)}]"


def keywords(hypers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in hypers.items())


def steps(setup: Setup, scenario: Scenario, last: int) -> Iterator[str]:
    rows = data.gradients(scenario)
    for number, (step, row) in enumerate(zip(scenario.steps[:last], rows, strict=False), start=1):
        yield f"\n# Step {number}"
        yield from changed_hypers(setup, scenario, step)
        if step.saved:
            yield "checkpoint = other.state_dict()"
            yield "theirs = [nn.Parameter(p.detach().clone()) for p in theirs]"
            yield other_line(setup, scenario)
            yield "other.load_state_dict(checkpoint)"
            yield from their_changes(setup, step)
        yield "gradients = ["
        yield from (f"    {None if grad is None else grad.tolist()!r}," for grad in row)
        yield "]"
        yield from one_step(step, row)


def changed_hypers(setup: Setup, scenario: Scenario, step: Step) -> Iterator[str]:
    for group, changes in enumerate(step.changes):
        for name, value in changes.items():
            yield f'one.param_groups[{group}]["{name}"] = {value!r}'
    if not step.saved:
        yield from their_changes(setup, step)


def their_changes(setup: Setup, step: Step) -> Iterator[str]:
    for group, changes in enumerate(step.changes):
        for name, value in changes.items():
            target = setup.pair.names.targets.get(name)
            place = f'other.param_groups[{group}]["{target.key}"]' if target else ""
            if target and target.index is None:
                yield f"{place} = {value!r}"
            elif target:
                yield f"{place} = tuple({value!r} if i == {target.index} else v for i, v in enumerate({place}))"


def one_step(step: Step, row: Any) -> Iterator[str]:
    for side, optimizer in (("ours", "one"), ("theirs", "other")):
        yield f"set_gradients({side}, gradients)"
        for number, (wanted, grad) in enumerate(zip(step.gradients, row, strict=True)):
            if wanted.kind == "strided" and grad is not None:
                yield f"{side}[{number}].grad = strided({side}[{number}].grad)"
        for event, arguments in step.events:
            yield f"{optimizer}.{event}({keywords(arguments)})"
        if not step.closure:
            yield f"{optimizer}.step()"
            continue
        yield f"for p in {side}:"
        yield "    p.grad = None"
        yield CLOSURE.format(params=side)
        yield f"found = {optimizer}.step(closure)"
