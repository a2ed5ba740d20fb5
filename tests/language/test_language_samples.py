"""Every sample of the language page compiles, and steps as the interpreter says. For their meaning see elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optforge.compiler.ir import nodes as ir
from optforge.compiler.oracle.interpreter import Inputs, evaluate_function
from tests.support.samples import FILES, FOLDER, SHAPES, checked, load, names, parameters, randn
from tests.support.trials import History, Interpreted, worst_error

TOLERANCE = 1e-10
REQUIRED = {"Operators": {"lr": 0.1}}
EVENTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "SophiaG": [("curvature", {"batch_size": 8.0})],
    "ScheduleFree": [("eval", {}), ("train", {})],
    "SAM": [("ascend", {})],
    "Counting": [("mark", {"weighing": 2.0})],
}
DECLARED = {name: path for path in FILES for name in names(path)}
OPTIMIZERS = [
    declaration.name
    for path in FILES
    for declaration in checked(path).require().declarations
    if isinstance(declaration, ir.Optimizer)
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sample_is_free_of_mistakes(path):
    """Only functions that replace the prelude's give warnings."""
    result = checked(path)
    assert result.program is not None
    replaced = path.read_text(encoding="utf-8").count("\ndef ") if path.parent != FOLDER else 0
    assert [(d.severity, d.code) for d in result.diagnostics] == [("warning", "W001")] * replaced


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sample_steps_as_the_interpreter_says(name):
    cls, hypers = load(name), REQUIRED.get(name, {})
    ours, theirs = parameters(cls), parameters(cls)
    program = ir.Program("", tuple(d for d in checked(DECLARED[name]).require().declarations if d.name == name))
    generated = cls([{"params": params, "rule": role} for role, params in ours.items()], **hypers)
    interpreted = Interpreted(program, list(theirs.items()), **hypers)
    found = stepped_with_events(generated, name, lambda event, arguments: getattr(generated, event)(**arguments))
    expected = stepped_with_events(interpreted, name, lambda event, arguments: interpreted.fire(event, **arguments))
    assert worst_error(found, expected) <= TOLERANCE
    for role in ours:
        for our, their in zip(ours[role], theirs[role], strict=True):
            for key, state in interpreted.state[their].items():
                difference = generated.state[our][key].reshape(state.shape) - state
                assert float(difference.norm()) <= TOLERANCE * float(state.norm())


def stepped_with_events(optimizer: Any, name: str, fire: Callable[[str, dict[str, Any]], Any]) -> History:
    """The weights before and after each of five steps; events come before three of them."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    history = [snapshot(params)]
    for step in range(5):
        for i, p in enumerate(params):
            p.grad = None if (step, i) == (3, 0) else randn(*p.shape, seed=1000 + 50 * step + i)
        for event, arguments in EVENTS.get(name, []) if step in (1, 2, 4) else []:
            fire(event, arguments)
        optimizer.step()
        history.append(snapshot(params))
    return history


def snapshot(params: list[torch.nn.Parameter]) -> dict[str, Tensor]:
    return {str(i): p.detach().clone() for i, p in enumerate(params)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_events_are_all_fired(name):
    """So that a sample with a new event is not stepped without it."""
    declared = {event.name for rule in load(name).RULES for event in rule.events}
    assert declared == {event for event, _ in EVENTS.get(name, [])}


def test_penalty_is_what_the_interpreter_says():
    (declaration,) = checked(DECLARED["Orthonormal"]).require().declarations
    params = [p for role in SHAPES for p in parameters(load("Orthonormal")).get(role, [])]
    expected = 0.0
    for p in params:
        (rule,) = (rule for rule in declaration.rules if ("matrix" if p.ndim > 1 else "vector") in rule.roles)
        weight = p.detach().numpy().reshape(p.shape[0], -1)
        expected += float(evaluate_function(rule.update, Inputs(weight, hypers={"strength": 0.3}))["loss"].item())
    assert load("Orthonormal")(params, strength=0.3)().item() == pytest.approx(expected, rel=1e-12)


def test_no_sample_is_left_out():
    others = {"UBA", "Orthonormal"}
    assert set(DECLARED) == {*OPTIMIZERS, *others}
    assert torch.get_default_dtype() is torch.float32  # nothing that a sample loads changes what torch does
