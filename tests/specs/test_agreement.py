"""Three ways agree on every spec: its generated module, the interpreter, and a reference written by hand.

Errors are |difference of the weights| / |step|, in float64 at most 1e-9 at each of 50 steps. The weights of
the smallest steps, of a millionth of their size, leave no more than that.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import optforge.generated
from optforge.compiler.driver import check_source
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import find_spec
from optforge.compiler.oracle.interpreter import schedule_factor
from optforge.dsl.source import Source
from tests.references import REFERENCES
from tests.references.uba import uba_factor
from tests.specs.test_torch_family import PAIRS
from tests.support.classes import OPTIONS, SEEDS
from tests.support.trials import (
    STEPS,
    Interpreted,
    Run,
    interpreted_groups,
    reference_groups,
    run,
    worst_error,
    worst_state_error,
)

TOLERANCE = 1e-9
FIRST_STEPS = 12  # until then every parameter that misses a gradient has missed one
NO_HYPERS = (*OPTIONS, "optimizer", "last_epoch")


def cases() -> list[Any]:
    """Every method with its defaults, and with each hyper changed, over the first steps and over all.

    What runs always: the defaults of all methods, and the changed hypers of the first ones, over the first steps; and
    all steps of the first ones' defaults.
    """
    found = []
    for name, cls in REFERENCES.items():
        for hyper, changed in {"defaults": {}, **cls.SECOND}.items():
            for steps in (FIRST_STEPS, STEPS):
                runs_always = name in SEEDS and not changed if steps == STEPS else name in SEEDS or not changed
                marks = () if runs_always else pytest.mark.wide
                found.append(
                    pytest.param(name, tuple(changed.items()), steps, id=f"{name}-{hyper}-{steps}", marks=marks)
                )
    return found


CASES = cases()
every_case = pytest.mark.parametrize("name, hypers, steps", CASES)
every_optimizer = pytest.mark.parametrize("name", REFERENCES)
seeds_first = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SEEDS else pytest.mark.wide) for name in REFERENCES]
)


@cache
def program(name: str) -> ir.Program:
    """The checked program of a shipped optimizer or schedule, before any pass, without others of the same file."""
    path = find_spec(name)
    whole = check_source(Source(path.name, path.read_text(encoding="utf-8")), path.parent).require()
    return replace(whole, declarations=tuple(each for each in whole.declarations if each.name == name))


@cache
def reference(name: str, hypers: tuple[tuple[str, Any], ...] = (), steps: int = STEPS) -> Run:
    cls = REFERENCES[name]

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return cls(reference_groups(model), **dict(hypers))

    return run(make, steps=steps, events=cls.EVENTS, is_determined=cls.is_determined)


def generated(
    name: str, hypers: tuple[tuple[str, Any], ...], dtype: torch.dtype = torch.float64, steps: int = STEPS
) -> Run:
    """By the functions of the module as they are written; the tests of other backends hold those to these."""
    cls = getattr(optforge.generated, name)
    expected = REFERENCES[name]
    return run(
        lambda model: cls(model, backend="eager", **dict(hypers)), dtype, steps, expected.EVENTS, expected.is_determined
    )


def interpreted(name: str, hypers: tuple[tuple[str, Any], ...], steps: int) -> Run:
    def make(model: nn.Module) -> Interpreted:
        return Interpreted(program(name), interpreted_groups(model), **dict(hypers))

    return run(make, steps=steps, events=REFERENCES[name].EVENTS, is_determined=REFERENCES[name].is_determined)


# -- the three ways ----------------------------------------------------------------------------------------------------


@every_case
def test_generated_module_agrees_with_reference(name, hypers, steps):
    found, expected = generated(name, hypers, steps=steps), reference(name, hypers, steps)
    assert worst_error(found.history, expected.history) <= TOLERANCE
    assert worst_state_error(found, expected) <= TOLERANCE


@every_case
def test_interpreter_agrees_with_reference(name, hypers, steps):
    found, expected = interpreted(name, hypers, steps), reference(name, hypers, steps)
    assert worst_error(found.history, expected.history) <= TOLERANCE
    assert worst_state_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("name, hypers, steps", [case for case in CASES if case.values[1]])
def test_second_values_change_the_outcome(name, hypers, steps):
    """Without this a hyper that nothing reads would agree as well; it may show in a state alone."""
    changed, usual = outcome(reference(name, hypers, steps)), outcome(reference(name, steps=steps))
    alike = {key: x for key, x in usual.items() if x.any() and changed[key].shape == x.shape}  # a rank changes sizes
    assert max(float((changed[key] - x).norm() / x.norm()) for key, x in alike.items()) > 1e-6


def outcome(finished: Run) -> dict[str, torch.Tensor]:
    """The weights and states after the last step."""
    states = {f"{name}.{key}": x for name, held in finished.states.items() for key, x in held.items()}
    return {**finished.history[-1], **states}


def test_every_shipped_optimizer_is_covered():
    shipped = {c.__name__ for c in shipped_classes() if hasattr(c, "step") and getattr(c, "RULES", None)}
    assert shipped == set(REFERENCES) | {pair.ours for pair in PAIRS}


@every_optimizer
def test_every_hyper_has_a_second_value(name):
    arguments = inspect.signature(getattr(optforge.generated, name).__init__).parameters
    second = REFERENCES[name].SECOND
    assert set(second) == set(arguments) - set(NO_HYPERS)
    defaults = {hyper: a.default for hyper, a in arguments.items() if hyper in second}
    reference_arguments = inspect.signature(REFERENCES[name].__init__).parameters
    assert defaults == {hyper: reference_arguments[hyper].default for hyper in defaults}


# -- float32 -----------------------------------------------------------------------------------------------------------

EPS32 = 2.0**-23
STEPS_32 = 20  # long enough to show a drift, too short for long steps to become chaotic


@pytest.mark.parametrize("hypers", [(), (("lr", 1.0),)], ids=["defaults", "long-steps"])
@seeds_first
def test_float32_stays_within_its_rounding(name, hypers):
    """Each step rounds the weight once, by eps32 times its norm, and its own value by a multiple of eps32."""
    single = generated(name, hypers, torch.float32, STEPS_32).history
    double = generated(name, hypers, steps=STEPS_32).history
    for key in double[0]:
        bound = longest = 0.0
        for step in range(1, len(double)):
            longest = max(longest, float((double[step][key] - double[step - 1][key]).norm()))
            bound += EPS32 * (float(double[step][key].norm()) + REFERENCES[name].SENSITIVITY * longest)
            assert float((single[step][key] - double[step][key]).norm()) <= bound, (key, step)


# -- the schedule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.25, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("total, warmup", [(1, 0), (20, 0), (20, 7), (33.5, 2.5)])
def test_uba_three_ways(total, warmup, phi):
    hypers = {"total": float(total), "warmup": float(warmup), "phi": phi}
    (schedule,) = program("UBA").declarations
    for t in range(1, int(total) + 5):
        expected = uba_factor(t, total, warmup, phi)
        assert optforge.generated.UBA.factor(t, **hypers) == pytest.approx(expected, rel=0, abs=1e-15)
        assert schedule_factor(schedule, float(t), hypers) == pytest.approx(expected, rel=0, abs=1e-15)


def test_uba_moves_the_lr_of_every_group():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = optforge.generated.SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=2.0)
    schedule = optforge.generated.UBA(optimizer, total=12, warmup=3, phi=0.5)
    for t in range(1, 13):
        lrs = [group["lr"] for group in optimizer.param_groups]
        assert lrs == pytest.approx([2.0 * uba_factor(t, 12, 3, 0.5), 0.5 * uba_factor(t, 12, 3, 0.5)], rel=1e-14)
        optimizer.step()
        schedule.step()


def shipped_classes() -> list[type[Any]]:
    return [getattr(optforge.generated, name) for name in optforge.generated.__all__]
