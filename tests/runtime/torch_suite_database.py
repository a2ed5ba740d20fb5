"""Our classes in the format of torch's own database of optimizers.

In: the generated classes and the conditions of their specs. Out: one `OptimizerInfo` per class, as in
`torch.testing._internal.common_optimizers`, and decorators that run a test for each class and each of its inputs.
It holds no test: `tests/runtime/test_torch_suite.py` does, and `tests/runtime/torch_suite.py` reports on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec as find_module
from types import ModuleType
from typing import Any
from unittest import TestCase

import hypothesis
import pytest
import torch
from torch.optim import lr_scheduler

from optforge.compiler.driver import check_file
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import find_spec
from optforge.compiler.verify.shared.hyper_values import HyperValues
from tests.support.classes import SEEDS, generated_classes


@cache
def torchs() -> Any:
    """`torch.testing._internal.common_optimizers`; takes seconds to import, so no test pays for it that needs it not.

    What importing it changes for the whole process (the profile of hypothesis, the freedom to set backend flags) is put
    back.
    """
    profile = hypothesis.settings.get_current_profile_name()
    try:
        with expecttest():
            return import_module("torch.testing._internal.common_optimizers")
    finally:
        hypothesis.settings.load_profile(profile)
        setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)


@contextmanager
def expecttest() -> Iterator[None]:
    """Torch's module wants this package for the base of a class that is not used here."""
    if find_module("expecttest"):
        yield
        return
    stand_in = ModuleType("expecttest")
    vars(stand_in)["TestCase"] = TestCase
    sys.modules["expecttest"] = stand_in
    try:
        yield
    finally:
        del sys.modules["expecttest"]


# Lists of schedulers to run together, in the form of torch's database; the last two only decay and only grow.
SCHEDULERS = (
    [
        lambda opt: lr_scheduler.StepLR(opt, gamma=0.9, step_size=2),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    [lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.9)],
    [lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4)],
)

# Why a class is left out of a test, by the test's name.
MANIFOLD = "each step puts matrices back on a manifold, whatever the gradient and the lr"
UNSEEN = "it goes by the loss, which nobody shows it, and so stays where it is"
MOVING = (
    "test_forloop_goes_right_direction",
    "test_forloop_goes_right_direction_with_lrsched",
    "test_param_group_with_lrscheduler_goes_right_direction",
    "test_fused_does_not_step_if_foundinf",
    "test_can_load_from_to_named_state_dict",
    "test_can_load_older_state_dict",
)
NOISY = "random numbers move it, whatever the gradient"
DRAWN = "each parameter draws numbers of its own, by its place in the optimizer"
DIRECTED = (
    "test_forloop_goes_right_direction",
    "test_forloop_goes_right_direction_with_lrsched",
    "test_param_group_with_lrscheduler_goes_right_direction",
    "test_param_groups_lr",
    "test_param_groups_weight_decay",
    "test_rosenbrock_sparse",
    "test_step_is_noop_for_zero_grads",
)
PLACED = ("test_foreach_matches_forloop", "test_mixed_device_dtype", "test_add_param_group")
STANDING: dict[str, dict[str, str]] = {
    **{name: {"MoMo": UNSEEN} for name in MOVING},
    "test_param_groups_lr": {"SPEL": MANIFOLD, "MuonSphere": MANIFOLD, "MoMo": UNSEEN},
    "test_step_is_noop_for_zero_grads": {
        "SPEL": MANIFOLD,
        "MuonSphere": MANIFOLD,
        "Scion": "its weights decay by lr, which is no hyper of its own",
        "RMNPOfficial": "its vectors decay by a constant of their rule",
    },
}
EXEMPT = {
    name: {
        **STANDING.get(name, {}),
        **({"SGLD": NOISY} if name in DIRECTED else {}),
        **(dict.fromkeys(("APOLLO", "SGLD"), DRAWN) if name in PLACED else {}),
    }
    for name in {*STANDING, *DIRECTED, *PLACED}
}


@cache
def info_of(cls: type[Any]) -> Any:
    """The database's entry of a class."""
    return torchs().OptimizerInfo(
        cls,
        optim_inputs_func=partial(optimizer_inputs, cls),
        optim_error_inputs_func=partial(error_inputs, cls),
        scheduler_inputs=SCHEDULERS,
        supported_impls=(),
        not_og_supported_flags=(),
        supports_complex=False,
    )


def optimizer_inputs(cls: type[Any], device: str, dtype: torch.dtype | None = None) -> list[Any]:
    """The defaults, each hyper at a second value that the spec allows, and a tensor as lr; new tensors at each call."""
    named: list[tuple[str, dict[str, Any]]] = [("default", {})]
    named += [(f"second {name}", dict(wanted)) for name, wanted in second_values(cls).items()]
    lr = values_of(cls).defaults["lr"]
    named.append(("tensor lr", {"lr": torch.tensor(lr, device=device, dtype=torch.float64)}))
    if "weight_decay" in second_values(cls):
        named.append(("tensor lr, weight decay", {"lr": torch.tensor(lr, device=device), "weight_decay": 0.1}))
    return [torchs().OptimizerInput(None, kwargs, desc) for desc, kwargs in named]


@cache
def values_of(cls: type[Any]) -> HyperValues:
    """The defaults of a class's hypers, and values that the conditions of its spec allow."""
    program = check_file(find_spec(cls.__name__)).require()
    (declaration,) = (each for each in program.declarations if each.name == cls.__name__)
    assert isinstance(declaration, ir.Optimizer)
    return HyperValues(declaration)


@cache
def second_values(cls: type[Any]) -> Mapping[str, Mapping[str, Any]]:
    """For each hyper what to set so that it has a value besides its default; others too where it needs company."""
    values = values_of(cls)
    found = {}
    for hyper, default in values.defaults.items():
        tried = sorted(values.by_name[hyper], key=partial(distance, hyper, default))
        tried = [v for v in tried if v != default and (v or isinstance(v, bool))]
        sets = [{hyper: v} for v in tried]
        sets += [{hyper: v, n: w} for v in tried for n in values.by_name for w in values.by_name[n] if n != hyper]
        found[hyper] = next(each for each in sets if values.holds({**values.defaults, **each}))
    return found


def distance(hyper: str, default: Any, value: Any) -> tuple[bool, float]:
    """Of the values that are allowed the nearest to the default is taken, to half of it for an lr, to 0.1 for a 0.

    What counts (5 steps, every 10) stays a whole number, where one is allowed.
    """
    if isinstance(default, (str, bool)):
        return False, 0.0
    target = default / 2 if hyper == "lr" else default or 0.1
    is_whole = hyper != "lr" and default and float(default).is_integer()
    return bool(is_whole and not float(value).is_integer()), abs(value - target)


def error_inputs(cls: type[Any], device: str, dtype: torch.dtype) -> list[Any]:
    """Torch's for all optimizers, with our errors where they are stricter, and hypers that break a condition."""
    errors = torchs().get_error_inputs_for_all_optims(device, dtype)
    for each in errors:
        if each.error_type is UserWarning:  # torch warns and steps twice
            each.error_type, each.error_regex = ValueError, "appear more than once in the parameter groups"
        if each.error_regex.startswith("params argument"):
            each.error_regex = "takes a module, its named parameters, tensors, or groups of these, not a value of type"
        if "Tensor lr" in each.error_regex:
            each.optimizer_error_input.params = [torch.nn.Parameter(torch.zeros(2, 2, device=device, dtype=dtype))]
            each.error_regex = r"invalid lr: a tensor hyper has no dimensions, this one has shape \(2,\)"
    for name, default in values_of(cls).defaults.items():
        bad = {bool: 1, str: "no such choice"}.get(type(default), float("nan"))
        params = [torch.nn.Parameter(torch.zeros(2, 2, device=device, dtype=dtype))]
        wrong = torchs().OptimizerInput(params, {name: bad}, f"bad {name}")
        errors.append(torchs().ErrorOptimizerInput(wrong, error_type=ValueError, error_regex=f"invalid {name}="))
    return errors


def class_parameters() -> list[Any]:
    """For `parametrize`: every generated class; what is no seed is wide."""
    return [
        pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in SEEDS else pytest.mark.wide)
        for cls in generated_classes()
    ]


def optims(test: Callable[[Any, dict[str, Any]], None]) -> Callable[..., None]:
    """As torch's decorator of this name: the test runs for every class, here with each of its inputs in turn."""

    def run_all(cls: type[Any], record_property: Callable[[str, object], None]) -> None:
        require_case(cls, test.__name__)
        inputs = info_of(cls).optim_inputs_func(device="cpu")
        for each in inputs:
            run_case(partial(test, info_of(cls), each.kwargs), f"{cls.__name__}, {each.desc}: {each.kwargs}")
        record_property("cases", len(inputs))

    return named_as(test, run_all)


def optims_by_default(test: Callable[[Any], None]) -> Callable[..., None]:
    """Like `optims`, with the defaults alone, where other hypers could make no difference or take too long."""

    def run_one(cls: type[Any], record_property: Callable[[str, object], None]) -> None:
        require_case(cls, test.__name__)
        run_case(partial(test, info_of(cls)), f"{cls.__name__}, default")
        record_property("cases", 1)

    return named_as(test, run_one)


def run_case(case: Callable[[], None], name: str) -> None:
    try:
        case()
    except Exception as error:
        error.add_note(f"in the case of {name}")
        raise


def require_case(cls: type[Any], test: str) -> None:
    reason = EXEMPT.get(test, {}).get(cls.__name__)
    if reason:
        pytest.skip(reason)


def named_as(test: Callable[..., None], run: Callable[..., None]) -> Callable[..., None]:
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return pytest.mark.parametrize("cls", class_parameters())(run)
