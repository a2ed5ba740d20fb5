"""The contract of every generated optimizer (see the architecture): the same tests for each class."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from optforge.runtime.contract.interface import OWN_DIMENSIONS
from tests.support.classes import (
    UNDETERMINED,
    build,
    class_parameters,
    groups,
    hyper_arguments,
    is_untouched,
    parameters,
    roles,
    set_gradients,
)

every_class = pytest.mark.parametrize("cls", class_parameters())
PRECISIONS = ("plain", "kahan", "stochastic", "master")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(optimizer: Any, params: list[Tensor], steps: range) -> None:
    for t in steps:
        set_gradients(params, t)
        optimizer.step()


def snapshot(optimizer: Any) -> Any:
    return copy.deepcopy((optimizer.state_dict(), [p.detach() for g in optimizer.param_groups for p in g["params"]]))


def same(a: Any, b: Any) -> bool:
    """Equal structure, values and dtypes; NaN equals NaN."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# How far processors may part where one sums in a batch, in another order, what it sums alone: of a state, or of a step.
OF_SUMS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2.0**-7}


def all_elementwise(cls: type[Any]) -> bool:
    return all(rule.step.layout == "elementwise" for rule in cls.RULES)


def same_state_alone(cls: type[Any], a: Any, b: Any) -> bool:
    """As `same` for a class whose rules are all elementwise; up to the rounding of sums for the others."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state_alone(cls, a[k], b[k]) for k in a)
    if all_elementwise(cls) or not (isinstance(a, Tensor) and a.dtype in OF_SUMS):
        return same(a, b)
    return a.dtype == b.dtype and a.shape == b.shape and distance(a, b) <= OF_SUMS[a.dtype] * distance(b, 0)


def same_weight_alone(cls: type[Any], p: Tensor, q: Tensor, start: Tensor) -> bool:
    """As `same_state_alone`, relative to what was moved from `start`, and to the places that the weight has."""
    if all_elementwise(cls):
        return torch.equal(p, q)
    places = 4 * torch.finfo(p.dtype).eps * distance(q, 0)
    return distance(p, q) <= OF_SUMS[p.dtype] * distance(q, start) + places


def distance(a: Tensor, b: Tensor | float) -> float:
    return float((a.detach().double() - b).norm())


def weights(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def has_totals(cls: type[Any]) -> bool:
    return any(kernel.sums for rule in cls.RULES for kernel in rule.kernels)


# -- 1: a torch.optim.Optimizer ----------------------------------------------------------------------------------------


@every_class
def test_is_an_optimizer_with_every_hyper_in_every_group(cls):
    optimizer = build(cls, groups(cls))
    assert isinstance(optimizer, torch.optim.Optimizer)
    for group in optimizer.param_groups:
        assert hyper_arguments(cls).keys() <= group.keys()


@every_class
def test_steps_change_every_weight_and_stay_finite(cls):
    made = groups(cls)
    params = parameters(made)
    before = weights(params)
    run(build(cls, made), params, range(3))
    for p, old in zip(params, before, strict=True):
        assert p.isfinite().all() and (p.numel() == 1 or not torch.equal(p, old)), p.shape


@every_class
def test_hypers_of_a_group_apply_to_it_alone(cls):
    if "lr" not in hyper_arguments(cls) or has_totals(cls):
        pytest.skip("needs an lr and parameters that do not depend on each other")
    made = groups(cls)
    first, second = made[0]["params"][0], made[0]["params"][1]
    rest = {"rule": made[0]["rule"]}
    optimizer = build(cls, [{"params": [first], **rest, "lr": 0.03}, {"params": [second], **rest, "lr": 0.05}])
    alone = []
    for p, lr in ((first, 0.03), (second, 0.05)):
        alone.append(copy.deepcopy(p))
        single = build(cls, [{"params": [alone[-1]], **rest}], lr=lr)
        for t in range(3):
            alone[-1].grad = torch.full_like(p, 0.5 + t)
            single.step()
    for t in range(3):
        first.grad, second.grad = torch.full_like(first, 0.5 + t), torch.full_like(second, 0.5 + t)
        optimizer.step()
    assert torch.equal(first, alone[0]) and torch.equal(second, alone[1])


@every_class
def test_closure_runs_with_gradients_and_its_loss_is_returned(cls):
    made = groups(cls)
    params = parameters(made)
    optimizer = build(cls, made)

    def closure():
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    expected = sum(p.square().sum() for p in weights(params))
    assert torch.allclose(optimizer.step(closure), expected)
    assert all(p.grad is not None for p in params)


@every_class
def test_hooks_run(cls):
    made = groups(cls)
    optimizer = build(cls, made)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    run(optimizer, parameters(made), range(1))
    assert calls == ["before", "after"]
    other = build(cls, groups(cls))
    other.register_load_state_dict_pre_hook(lambda *_: optimizer.state_dict())
    other.register_load_state_dict_post_hook(lambda o: calls.append(len(o.state)))
    other.load_state_dict({"replaced": "by the hook"})
    assert same(other.state_dict(), optimizer.state_dict()) and calls[2:] == [len(parameters(made))]


@every_class
def test_deepcopy_and_pickle_continue_alike_and_apart(cls):
    made = groups(cls)
    optimizer = build(cls, made)
    run(optimizer, parameters(made), range(2))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        params = [p for g in other.param_groups for p in g["params"]]
        assert same(snapshot(other), snapshot(optimizer))
        run(other, params, range(2, 4))
        original = copy.deepcopy(optimizer)
        run(original, [p for g in original.param_groups for p in g["params"]], range(2, 4))
        assert same(snapshot(other), snapshot(original))
        assert not same(snapshot(other), snapshot(optimizer))


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.5**t),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=6, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@every_class
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_set_the_lr_that_the_next_step_uses(cls, name):
    if "lr" not in hyper_arguments(cls):
        pytest.skip("has no lr")
    scheduled, by_hand = groups(cls), groups(cls)
    optimizer, other = build(cls, scheduled), build(cls, by_hand)
    scheduler = SCHEDULERS[name](optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in range(4):
            run(optimizer, parameters(scheduled), range(t, t + 1))
            for group, like in zip(other.param_groups, optimizer.param_groups, strict=True):
                group["lr"] = like["lr"]
            run(other, parameters(by_hand), range(t, t + 1))
            scheduler.step()
    assert same(weights(parameters(scheduled)), weights(parameters(by_hand)))
    assert optimizer.param_groups[0]["lr"] != optimizer.param_groups[0]["initial_lr"]


@every_class
def test_groups_can_be_added_mid_run(cls):
    made = groups(cls)
    optimizer = build(cls, made)
    run(optimizer, parameters(made), range(2))
    late = torch.nn.Parameter(torch.ones(6, 4) if roles(cls)[0] == "matrix" else torch.ones(5))
    optimizer.add_param_group({"params": [late], "rule": roles(cls)[0]})
    run(optimizer, [*parameters(made), late], range(2, 4))
    assert not torch.equal(late, torch.ones_like(late))
    assert optimizer.state[late].get("step") == 2


@every_class
def test_a_step_stores_what_the_kernel_returns(cls):
    """The kernel gets the hypers, the count of this step and what the one before has stored; outputs may be inputs."""
    if has_totals(cls):
        pytest.skip("needs parameters that do not depend on each other")
    (rule,) = [rule for rule in cls.RULES if roles(cls)[0] in rule.roles]
    p = next(p for p in groups(cls)[0]["params"] if rule.orientation != "wide" or p.shape[0] <= p.shape[1])
    optimizer = build(cls, [{"params": [p], "rule": roles(cls)[0]}])
    optimizer.backend = "eager"
    view = {"elementwise": (-1,), "tensor": (1, -1, 1)}.get(rule.step.layout)
    run(optimizer, [p], range(1))
    for t in (2, 3):
        set_gradients([p], t)
        held = {"weight": p.detach(), "grad": p.grad, **optimizer.state[p]}
        inputs = [held[name].clone().reshape(view or (1, *held[name].shape)) for name in rule.step.inputs]
        sizes = dict(zip(("rows", "cols"), p.shape, strict=False)) | dict(zip(OWN_DIMENSIONS, p.shape, strict=False))
        scalars = {**optimizer.param_groups[0], "t": t, **sizes}
        if rule.rank is not None:
            scalars[rule.rank.name] = rule.rank.size(tuple(p.shape), scalars, False)
        values = rule.step.function(*inputs, **{name: scalars[name] for name in rule.step.scalars})
        expected = dict(zip(rule.step.outputs, values, strict=True))
        optimizer.step()
        for name, value in {"weight": p.detach(), **optimizer.state[p]}.items():
            if name in expected:
                shape = value.reshape(view or (1, *value.shape)).shape
                wanted = torch.as_tensor(expected[name], dtype=value.dtype).expand(shape)
                assert torch.equal(value, wanted.reshape(value.shape)), name


# -- 2: gradients, parameters without one, parameters given twice ------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_not_modified(cls, dtype):
    """Neither in a batch nor alone, where no copy stands between the kernel and the gradient."""
    for made in (groups(cls, dtype), *([{**g, "params": g["params"][:1]}] for g in groups(cls, dtype))):
        params = parameters(made)
        optimizer = build(cls, made)
        optimizer.backend = "auto" if len(made) > 1 else "eager"
        for t in range(2):
            set_gradients(params, t)
            before = [(p.grad, p.grad.clone(), p.grad._version) for p in params]
            optimizer.step()
            for p, (grad, copied, version) in zip(params, before, strict=True):
                assert p.grad is grad and torch.equal(grad, copied) and grad._version == version


@every_class
def test_parameters_without_gradient_are_skipped(cls):
    made = groups(cls)
    params = parameters(made)
    optimizer = build(cls, made)
    set_gradients(params, 0)
    params[0].grad = None
    first = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(params[0], first) and is_untouched(optimizer, params[0])
    run(optimizer, params, range(1, 3))
    set_gradients(params, 3)
    params[1].grad = None
    shared = {kept.name for rule in cls.RULES for kept in rule.states if kept.shared is not None}

    def own() -> tuple[torch.Tensor, dict[str, Any]]:
        return params[1].detach(), {n: x for n, x in optimizer.state[params[1]].items() if n not in shared}

    before = copy.deepcopy(own())
    optimizer.step()
    assert same(before, own())
    assert optimizer.state[params[0]]["step"] == 3


@every_class
def test_changing_sets_of_gradients_leave_no_stale_state(cls):
    """Every parameter's trajectory depends on its own gradients alone, whatever it was batched with."""
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    made, references = groups(cls), groups(cls)
    params, alone = parameters(made), parameters(references)
    starts = weights(params)
    optimizer = build(cls, made)
    singles = [build(cls, [{**g, "params": [p]}]) for g in references for p in g["params"]]
    generator = torch.Generator().manual_seed(0)
    for t in range(8):
        present = torch.rand(len(params), generator=generator) < 0.6
        set_gradients(params, t)
        set_gradients(alone, t)
        for i, p in enumerate(params):
            if present[i]:
                singles[i].step()
            else:
                p.grad = None
        optimizer.step()
    for p, q, single, start in zip(params, alone, singles, starts, strict=True):
        assert same_weight_alone(cls, p, q, start)
        assert same_state_alone(cls, dict(optimizer.state.get(p, {})), dict(single.state.get(q, {})))


@every_class
def test_the_same_parameter_twice_is_an_error(cls):
    group = groups(cls)[0]
    p = group["params"][0]
    with pytest.raises(ValueError, match="more than once"):
        build(cls, [{**group, "params": [p, p]}])
    with pytest.raises(ValueError, match="more than one parameter group"):
        build(cls, [{**group, "params": [p]}, {**group, "params": [p]}])


@every_class
def test_gradients_of_zero_leave_finite_weights(cls):
    """A parameter that the loss does not reach through the present batch is not destroyed, from the first step on."""
    made = groups(cls, torch.float32)
    params = parameters(made)
    optimizer = build(cls, made)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in params)


# -- 3: checks ---------------------------------------------------------------------------------------------------------


@every_class
def test_hypers_of_the_wrong_kind_are_errors_that_name_them(cls):
    for name, argument in hyper_arguments(cls).items():
        wrong = {"bool": [1, "yes"], "str": [1.0, True]}.get(argument.annotation, [float("nan"), "1", True, None, 1j])
        for value in [*wrong, torch.ones(2)]:
            with pytest.raises(ValueError, match=f"invalid {name}"):
                build(cls, groups(cls), **{name: value})
            with pytest.raises(ValueError, match=f"invalid {name}"):
                build(cls, [{**group, name: value} for group in groups(cls)])


@every_class
def test_conditions_of_hypers_are_checked_wherever_values_arrive(cls):
    """At construction, in groups, in loaded states and when a group has been changed; the message has all of it."""
    violated = 0
    for name in hyper_arguments(cls):
        for value in (-1.5, 1e9, "no such choice"):
            try:
                build(cls, groups(cls), **{name: value})
            except ValueError as error:
                if "the condition is" not in str(error):
                    continue
                violated += 1
                assert f"={value!r}" in str(error) or "condition is" in str(error)
                made = groups(cls)
                optimizer = build(cls, made)
                run(optimizer, parameters(made), range(1))
                before = snapshot(optimizer)
                bad = copy.deepcopy(optimizer.state_dict())
                bad["param_groups"][0][name] = value
                with pytest.raises(ValueError, match="the condition is"):
                    optimizer.load_state_dict(bad)
                late = {"params": groups(cls)[0]["params"], "rule": roles(cls)[0], name: value}
                with pytest.raises(ValueError, match="the condition is"):
                    optimizer.add_param_group(late)
                assert same(snapshot(optimizer), before)
                optimizer.param_groups[0][name] = value
                with pytest.raises(ValueError, match="the condition is"):
                    optimizer.step()
    if "lr" in hyper_arguments(cls):
        assert violated


@every_class
def test_unknown_group_keys_are_errors_with_the_nearest_name(cls):
    group = groups(cls)[0]
    with pytest.raises(ValueError, match=r"'precison'.*did you mean 'precision'"):
        build(cls, [{**group, "precison": "plain"}])
    optimizer = build(cls, [group])
    bad = optimizer.state_dict()
    bad["param_groups"][0]["precison"] = "plain"
    with pytest.raises(ValueError, match="precison"):
        optimizer.load_state_dict(bad)


@every_class
def test_complex_sparse_and_integer_tensors_are_errors(cls):
    group = groups(cls)[0]
    shape = group["params"][0].shape
    for wrong in (torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape, dtype=torch.int32)):
        with pytest.raises(RuntimeError, match=str(wrong.dtype)):
            build(cls, [{**group, "params": [wrong]}])
    optimizer = build(cls, [group])
    set_gradients(group["params"], 0)
    group["params"][0].grad = torch.zeros(shape).to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert same(snapshot(optimizer), before)


# -- 4: state ----------------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights_only", [True, False])
def test_checkpoints_continue_bitwise_with_the_dtypes_of_the_state(cls, dtype, weights_only):
    made, fresh = groups(cls, dtype), groups(cls, dtype, seed=1)
    params, others = parameters(made), parameters(fresh)
    optimizer, other = build(cls, made), build(cls, fresh)
    run(optimizer, params, range(3))
    params[0].grad = None
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=weights_only))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    assert same(snapshot(other), snapshot(optimizer))
    run(optimizer, params, range(3, 6))
    run(other, others, range(3, 6))
    assert same(snapshot(other), snapshot(optimizer))
    for p in params:
        for name, value in optimizer.state[p].items():
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            assert name.endswith("step") or value.dtype == wide


@every_class
def test_loading_shares_no_memory(cls):
    made = groups(cls)
    hypers = {"lr": torch.tensor(0.01)} if "lr" in hyper_arguments(cls) else {}
    optimizer = build(cls, made, **hypers)
    run(optimizer, parameters(made), range(2))
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    other_groups = groups(cls)
    other = build(cls, other_groups)
    other.load_state_dict(saved)
    for group in other.param_groups if hypers else ():
        group["lr"].mul_(0.5)
    run(other, parameters(other_groups), range(2, 4))
    assert same(optimizer.state_dict(), before)


@every_class
def test_loading_mid_run_replaces_the_state(cls):
    made = groups(cls)
    params = parameters(made)
    optimizer = build(cls, made)
    run(optimizer, params, range(2))
    saved, at = copy.deepcopy(optimizer.state_dict()), weights(params)
    run(optimizer, params, range(2, 4))
    expected = snapshot(optimizer)
    run(optimizer, params, range(4, 5))
    optimizer.load_state_dict(saved)
    with torch.no_grad():
        for p, old in zip(params, at, strict=True):
            p.copy_(old)
    run(optimizer, params, range(2, 4))
    assert same(snapshot(optimizer), expected)


@every_class
def test_states_that_are_replaced_count(cls):
    """Whoever puts another tensor in the state, as methods that prune or average do, finds it used."""
    made, fresh = groups(cls), groups(cls)
    params, others = parameters(made), parameters(fresh)
    optimizer, other = build(cls, made), build(cls, fresh)
    run(optimizer, params, range(2))
    run(other, others, range(2))
    halved = copy.deepcopy(other.state_dict())
    for entry in halved["state"].values():
        entry.update({name: value / 2 for name, value in entry.items() if not name.endswith("step")})
    other.load_state_dict(halved)
    for p in params:
        entry = optimizer.state[p]
        entry.update({name: value / 2 for name, value in entry.items() if not name.endswith("step")})
    run(optimizer, params, range(2, 4))
    run(other, others, range(2, 4))
    assert same(snapshot(optimizer), snapshot(other))


@every_class
def test_states_that_do_not_fit_are_errors_and_change_nothing(cls):
    made = groups(cls)
    params = parameters(made)
    optimizer = build(cls, made)
    run(optimizer, params, range(2))
    before = snapshot(optimizer)

    def refused(change, match):
        bad = copy.deepcopy(optimizer.state_dict())
        change(bad)
        with pytest.raises(ValueError, match=match):
            optimizer.load_state_dict(bad)
        assert same(snapshot(optimizer), before)

    refused(lambda s: s["state"][0].update(exp_avg=torch.ones(2)), "exp_avg")
    refused(lambda s: s["param_groups"].append({"params": []}), "different number")
    refused(lambda s: s["param_groups"][0]["params"].pop(), "match the size")
    refused(lambda s: s["param_groups"][0].pop("lr" if "lr" in hyper_arguments(cls) else "rule"), "without")
    kept = next((name for name in optimizer.state[params[0]] if not name.endswith("step")), None)
    if kept is not None:
        refused(lambda s: s["state"][0].pop(kept), f"lacks {kept}")
        refused(lambda s: s["state"][0].update({kept: torch.ones(99)}), "shape")


# -- 5: hypers may be tensors and may change ---------------------------------------------------------------------------


@every_class
def test_tensor_hypers_are_like_numbers(cls):
    numbers = {n: a.default for n, a in hyper_arguments(cls).items() if isinstance(a.default, float)}
    made, others = groups(cls), groups(cls)
    as_tensors = {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()}
    optimizer, other = build(cls, made), build(cls, others, **as_tensors)
    run(optimizer, parameters(made), range(2))
    run(other, parameters(others), range(2))
    assert same(weights(parameters(made)), weights(parameters(others)))
    if "lr" in numbers:
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * numbers["lr"]
        as_tensors["lr"].mul_(0.5)
        run(optimizer, parameters(made), range(2, 3))
        run(other, parameters(others), range(2, 3))
        assert same(weights(parameters(made)), weights(parameters(others)))


# -- 6: precision ------------------------------------------------------------------------------------------------------


class Dtypes(TorchDispatchMode):
    """Collects the floating dtypes of everything computed.

    But for step counts as torch's fused kernels take them, whatever the dtype of the weights: float32, and so exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.full.default and not out.ndim and out == int(out):
            return out
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, Tensor) and value.is_floating_point():
                self.seen.add(value.dtype)
        return out


@every_class
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_float64_stays_float64(cls, backend):
    made = groups(cls, torch.float64)
    params = parameters(made)
    optimizer = build(cls, made)
    optimizer.backend = backend
    for t in range(2):
        set_gradients(params, t)
        with Dtypes() as dtypes:
            optimizer.step()
        nothing = backend == "auto" and not dtypes.seen  # is seen of a step that is one fused kernel
        assert nothing or dtypes.seen == {torch.float64}


@pytest.mark.parametrize("cls", [each for each in class_parameters() if each.id not in UNDETERMINED])
def test_float32_is_close_to_float64(cls):
    single, double = groups(cls, torch.float32), groups(cls, torch.float64)
    with torch.no_grad():
        for p, q in zip(parameters(single), parameters(double), strict=True):
            q.copy_(p)
    optimizer, other = build(cls, single), build(cls, double)
    for t in range(3):
        set_gradients(parameters(single), t)
        for p, q in zip(parameters(single), parameters(double), strict=True):
            q.grad = p.grad.double()
        optimizer.step()
        other.step()
    for p, q in zip(parameters(single), parameters(double), strict=True):
        torch.testing.assert_close(p.double(), q, rtol=2e-4, atol=2e-5)
        assert p.numel() == 1 or not torch.equal(p.double(), q)


@every_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_low_precision_computes_in_float32(cls, dtype, precision):
    """One step from equal weights is the float32 step as it is written, rounded; fused kernels round otherwise."""
    low, single = groups(cls, dtype), groups(cls, torch.float32)
    optimizer, other = build(cls, low, precision=precision), build(cls, single, precision=precision)
    optimizer.backend = other.backend = "eager"
    set_gradients(parameters(low), 0)
    with torch.no_grad():
        for p, q in zip(parameters(low), parameters(single), strict=True):
            q.copy_(p)
            q.grad = p.grad.float()
    optimizer.step()
    other.step()
    for p, q in zip(parameters(low), parameters(single), strict=True):
        assert p.dtype == dtype
        state = optimizer.state[p]
        ulp = q.abs().clamp(min=1e-4) * torch.finfo(dtype).eps
        if precision == "stochastic":
            assert ((p.float() - q).abs() <= ulp).all()
        else:
            assert torch.equal(p, q.detach().to(dtype))
        if precision == "master":
            assert torch.equal(state["master"], q)
        if precision == "kahan":
            assert state["kahan"].dtype == dtype
            assert ((p.float() + state["kahan"].float() - q).abs() <= ulp * torch.finfo(dtype).eps + 1e-7).all()
        for name, value in state.items():
            assert name in ("step", "kahan") or value.dtype == torch.float32


@every_class
@pytest.mark.parametrize("precision", ["kahan", "master"])
def test_checkpoints_hold_what_the_precision_needs(cls, precision):
    made, fresh = groups(cls, torch.bfloat16), groups(cls, torch.bfloat16)
    optimizer, other = build(cls, made, precision=precision), build(cls, fresh, precision=precision)
    run(optimizer, parameters(made), range(3))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(parameters(made), parameters(fresh), strict=True):
            q.copy_(p)
    run(optimizer, parameters(made), range(3, 6))
    run(other, parameters(fresh), range(3, 6))
    assert same(snapshot(other), snapshot(optimizer))
    plain = build(cls, groups(cls, torch.bfloat16))
    wrong = copy.deepcopy(optimizer.state_dict())
    for group in wrong["param_groups"]:
        group["precision"] = "plain"
    with pytest.raises(ValueError, match=precision):
        plain.load_state_dict(wrong)


@every_class
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_gradients_are_skipped_or_propagate(cls, bad):
    for skip in (True, False):
        made = groups(cls)
        params = parameters(made)
        optimizer = build(cls, made, skip_nonfinite=skip)
        run(optimizer, params, range(2))
        set_gradients(params, 2)
        params[-1].grad.view(-1)[0] = bad
        before = snapshot(optimizer)
        optimizer.step()
        assert same(snapshot(optimizer), before) == skip
        run(optimizer, params, range(3, 4))
        assert not same(snapshot(optimizer), before)
        assert copy.deepcopy(optimizer).skip_nonfinite == skip


# -- 7: deterministic --------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_order_of_parameters_does_not_matter(cls, dtype):
    made, reordered = groups(cls, dtype), groups(cls, dtype)
    params, others = parameters(made), parameters(reordered)
    for group in reordered:
        group["params"] = group["params"][::-1]
    optimizer, other = build(cls, made), build(cls, reordered[::-1])
    for t in range(4):
        set_gradients(params, t)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert same(dict(optimizer.state[p]), dict(other.state[q]))


@every_class
def test_totals_do_not_depend_on_the_order(cls):
    """Not even in the last bit, with so many parameters of different sizes that a sum in any other way would."""
    if not has_totals(cls):
        pytest.skip("has no totals")
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, generator=generator, dtype=torch.float64) * 1.3**i for i in range(48)]
    params, others = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    optimizer = build(cls, [{"params": params, "rule": roles(cls)[0]}])
    other = build(cls, [{"params": others[::-1], "rule": roles(cls)[0]}])
    for t in range(3):
        for i, (p, q) in enumerate(zip(params, others, strict=True)):
            set_gradients([p], 100 * t + i)
            p.grad.mul_(1.3**i)
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q) and same(dict(optimizer.state[p]), dict(other.state[q]))


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_batch_computes_what_each_alone_computes(cls, dtype):
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    made, references = groups(cls, dtype), groups(cls, dtype)
    params, alone = parameters(made), parameters(references)
    starts = weights(params)
    optimizer = build(cls, made)
    singles = [build(cls, [{**g, "params": [p]}]) for g in references for p in g["params"]]
    for t in range(3):
        set_gradients(params, t)
        set_gradients(alone, t)
        optimizer.step()
        for single in singles:
            single.step()
    for p, q, single, start in zip(params, alone, singles, starts, strict=True):
        assert same_weight_alone(cls, p, q, start)
        assert same_state_alone(cls, dict(optimizer.state[p]), dict(single.state[q]))


@every_class
def test_dtypes_of_a_group_are_never_mixed(cls):
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    p = groups(cls)[0]["params"][0].detach()
    params = [torch.nn.Parameter(p.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    alone = [copy.deepcopy(p) for p in params]
    optimizer = build(cls, [{"params": params, "rule": roles(cls)[0]}])
    singles = [build(cls, [{"params": [p], "rule": roles(cls)[0]}]) for p in alone]
    for t in range(3):
        set_gradients(params, t)
        for p, q in zip(params, alone, strict=True):
            q.grad = p.grad.clone()
        for each in (optimizer, *singles):
            each.step()
    for p, q, single in zip(params, alone, singles, strict=True):
        assert torch.equal(p, q) and same(dict(optimizer.state[p]), dict(single.state[q]))


@every_class
def test_layout_in_memory_does_not_matter(cls):
    """Transposed, channels-last and expanded storage of weights and gradients give what contiguous storage gives.

    By the written rules: torch's fused kernels take no such storage, and round otherwise than the rules.
    """
    made, strided = groups(cls), groups(cls)
    for group in strided:
        group["params"] = [torch.nn.Parameter(_restrided(p.detach())) for p in group["params"]]
    params, others = parameters(made), parameters(strided)
    optimizer, other = build(cls, made), build(cls, strided)
    optimizer.backend = other.backend = "eager"
    for t in range(3):
        set_gradients(params, t)
        for p, q in zip(params, others, strict=True):
            q.grad = _restrided(p.grad)
        optimizer.step()
        other.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert same(dict(optimizer.state[p]), dict(other.state[q]))


def matrix_layout(cls: type[Any]) -> bool:
    """Whether the first role's parameters, of two dimensions, are matrices to their rule."""
    (rule,) = [rule for rule in cls.RULES if roles(cls)[0] in rule.roles]
    return roles(cls)[0] == "matrix" and rule.step.layout == "matrix"


@every_class
@pytest.mark.parametrize("split", [2, (2, 4), (1, 1, 3, 1)])
def test_a_split_parameter_steps_as_its_parts(cls, split):
    """Also after a checkpoint that brings the split to an optimizer which had none."""
    if not matrix_layout(cls) or has_totals(cls):
        pytest.skip("has no matrices, or parameters depend on each other")
    p, loaded = groups(cls)[0]["params"][0], groups(cls)[0]["params"][1]
    start = p.detach().clone()
    rows = (3, 3) if split == 2 else split
    parts = [torch.nn.Parameter(part.detach().clone()) for part in p.split(rows)]
    optimizer = build(cls, [{"params": [p], "rule": "matrix", "split": split}])
    alone = build(cls, [{"params": parts, "rule": "matrix"}])
    other = build(cls, [{"params": [loaded], "rule": "matrix"}])
    run(other, [loaded], range(1))
    for t in range(4):
        if t == 2:
            other.load_state_dict(optimizer.state_dict())
            loaded.data.copy_(p.data)
        set_gradients([p], t)
        loaded.grad = p.grad.clone()
        for part, grad in zip(parts, p.grad.split(rows), strict=True):
            part.grad = grad.clone()
        for each in (optimizer, alone, other):
            each.step()
    assert same_weight_alone(cls, p, torch.cat(parts), start)
    assert torch.equal(p, loaded) and same(other.state_dict(), optimizer.state_dict())


@every_class
def test_a_transposed_parameter_steps_as_its_transpose(cls):
    if not matrix_layout(cls):
        pytest.skip("has no matrices")
    params = groups(cls)[0]["params"]
    turned = [torch.nn.Parameter(p.detach().t().clone()) for p in params]
    optimizer = build(cls, [{"params": params, "rule": "matrix"}])
    other = build(cls, [{"params": turned, "rule": "matrix", "transposed": True}])
    for t in range(3):
        set_gradients(params, t)
        for p, q in zip(params, turned, strict=True):
            q.grad = p.grad.t().clone()
        optimizer.step()
        other.step()
        other.load_state_dict(copy.deepcopy(other.state_dict()))
    full = {kept.name for rule in cls.RULES if "matrix" in rule.roles for kept in rule.states if kept.full}
    for p, q in zip(params, turned, strict=True):
        assert torch.equal(p, q.t())
        state = {name: value.t() if name in full else value for name, value in other.state[q].items()}
        assert same(dict(optimizer.state[p]), state)


@every_class
@pytest.mark.parametrize("options", [{}, {"transposed": True}, {"split": (2, 4)}], ids=str)
def test_a_batch_steps_as_its_matrices(cls, options):
    """Also after a checkpoint that brings the batch to an optimizer which had none."""
    if not matrix_layout(cls) or has_totals(cls):
        pytest.skip("has no matrices, or parameters depend on each other")
    singles = groups(cls, torch.float64)[0]["params"][:2]
    if "transposed" in options:
        singles = [torch.nn.Parameter(p.detach().t().clone()) for p in singles]
    start = torch.stack([p.detach() for p in singles])
    p, loaded = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    alone = build(cls, [{"params": singles, "rule": "matrix", **options}])
    optimizer = build(cls, [{"params": [p], "rule": "matrix", "batch": 1, **options}])
    other = build(cls, [{"params": [loaded], "rule": "matrix"}])
    for t in range(4):
        if t == 2:
            other.load_state_dict(optimizer.state_dict())
            loaded.data.copy_(p.data)
        set_gradients([p], t)
        loaded.grad = p.grad.clone()
        for single, grad in zip(singles, p.grad, strict=True):
            single.grad = grad.clone()
        for each in (optimizer, alone, other):
            each.step()
    expected = torch.stack([single.detach() for single in singles])
    assert float((p.detach() - expected).norm() / (expected - start).norm()) < 1e-10
    assert torch.equal(p, loaded) and same(other.state_dict(), optimizer.state_dict())


@every_class
def test_an_lr_that_a_group_sets_is_that_of_its_rule(cls):
    """A ratio to lr is for parameters that have no lr of their own."""
    ratios = [rule for rule in cls.RULES if rule.lr_ratio is not None and "vector" in rule.roles]
    if not ratios:
        pytest.skip("no rule has a ratio to lr")
    steps = []
    for group in ({"lr": 0.25}, {"lr": 0.25, ratios[0].lr_ratio: 1.0}, {}):
        p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = build(cls, [{"params": [p], "rule": "vector", **group}])
        set_gradients([p], 0)
        optimizer.step()
        steps.append(p.detach() - 1)
    assert torch.equal(steps[0], steps[1]) and not torch.equal(steps[0], steps[2])


@every_class
def test_a_large_elementwise_parameter_steps_as_its_pieces(cls):
    """What is walked block by block because it does not fit in the cache."""
    rules = [rule for rule in cls.RULES if rule.step.layout == "elementwise" and "vector" in rule.roles]
    if not rules or has_totals(cls):
        pytest.skip("has no elementwise rule, or parameters depend on each other")
    generator = torch.Generator().manual_seed(0)
    whole = torch.nn.Parameter(torch.randn((1 << 18) + 5, generator=generator))
    pieces = [torch.nn.Parameter(piece.detach().clone()) for piece in whole.split(100_000)]
    optimizer = build(cls, [{"params": [whole], "rule": "vector"}])
    other = build(cls, [{"params": pieces, "rule": "vector"}])
    optimizer.backend = other.backend = "eager"
    for _ in range(2):
        whole.grad = torch.randn(whole.shape, generator=generator)
        for piece, grad in zip(pieces, whole.grad.split(100_000), strict=True):
            piece.grad = grad.clone()
        optimizer.step()
        other.step()
    assert torch.equal(whole, torch.cat(pieces))


def _restrided(x: Tensor) -> Tensor:
    if x.ndim == 4:
        return x.clone(memory_format=torch.channels_last)
    if x.ndim == 2:
        return x.t().clone().t()
    return x.clone()


@every_class
def test_empty_parameters_are_left_alone(cls):
    role = roles(cls)[0]
    empty = torch.nn.Parameter(torch.zeros(0, 4))
    made = groups(cls)
    made.append({"params": [empty], "rule": role})
    optimizer = build(cls, made)
    run(optimizer, parameters(made), range(2))
    assert is_untouched(optimizer, empty)
