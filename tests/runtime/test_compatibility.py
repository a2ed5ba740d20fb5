"""Generated classes among the rest of torch: schedulers, averaging, hooks, layouts, models in all their forms, DDP."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from optforge.generated import ASGD, SGD, AdamW, Muon
from tests.runtime.test_contract import has_totals, run, same, weights
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

# What is the runtime's doing, whatever the equations: one class of each layout, and of the methods it began with.
FEW = {"AdamW", "Muon", "Nora", "Blend", "Sphere"}
few_classes = pytest.mark.parametrize("cls", [each for each in class_parameters() if each.id in FEW])
always_few = pytest.mark.parametrize(
    "cls",
    [
        each if each.id in FEW else pytest.param(*each.values, id=each.id, marks=pytest.mark.wide)
        for each in class_parameters()
    ],
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def needs_independent_parameters(cls: type[Any]) -> None:
    if has_totals(cls):
        pytest.skip("parameters depend on each other")


def built_or_skipped(cls: type[Any], model: nn.Module, **options: Any) -> Any:
    """An optimizer of the whole model, for classes that have a rule for each of its parameters."""
    try:
        return build(cls, model, **options)
    except ValueError as error:
        if "has no rule" not in str(error):
            raise
        pytest.skip("has no rule for vectors")


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(step: int, size: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(size, 6, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(size, 3, generator=generator, dtype=torch.float64).to(dtype),
    )


def loss_of(model: nn.Module, step: int) -> Tensor:
    x, y = batch(step, dtype=next(model.parameters()).dtype)
    return (model(x) - y).square().mean()


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        loss_of(model, t).backward()
        optimizer.step()


# -- hypers that change ------------------------------------------------------------------------------------------------


def other_values(cls: type[Any]) -> dict[str, Any]:
    """For each hyper another valid value: for numbers the nearest of a few that the class accepts."""
    made = {}
    for name, argument in hyper_arguments(cls).items():
        default = 1.0 if argument.default is argument.empty else argument.default
        kind = getattr(argument.annotation, "__name__", str(argument.annotation))
        if kind == "bool":
            candidates: list[Any] = [not default]
        elif kind == "str" or isinstance(default, str):
            continue
        else:
            whole = [default + 1, default - 1] if isinstance(default, int) else []
            candidates = [*whole, 0.9 * default, 1.1 * default, default / 2 + 0.25, default + 1, default + 0.001]
        for value in candidates:
            try:
                build(cls, groups(cls), **{name: value})
            except ValueError:
                continue
            made[name] = value
            break
    return made


@pytest.mark.filterwarnings("ignore:.*in a parameter group has no effect")
@always_few
def test_every_hyper_is_live_in_every_group(cls):
    """A hyper set in a group between two steps acts there as if the rest of the run had been built with it."""
    needs_independent_parameters(cls)
    for name, value in other_values(cls).items():
        made, built = groups(cls), groups(cls)
        changed, constructed = build(cls, made), build(cls, built)
        run(changed, parameters(made), range(2))
        run(constructed, parameters(built), range(2))
        successor_groups = [{**group, name: value} for group in built]
        successor = build(cls, successor_groups)
        saved = constructed.state_dict()
        for group in saved["param_groups"]:
            group[name] = value
        successor.load_state_dict(saved)
        changed.param_groups[0][name] = value
        run(changed, parameters(made), range(2, 4))
        run(successor, parameters(built), range(2, 4))
        first = made[0]["params"]
        assert same(weights(first), weights(built[0]["params"])), name
        if len(made) > 1:  # the others go on as they were
            left = groups(cls)
            unchanged = build(cls, left)
            run(unchanged, parameters(left), range(4))
            assert same(weights(made[1]["params"]), weights(left[1]["params"])), name


# -- schedulers --------------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.5**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4, 2.0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 2, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=8, cycle_momentum=False),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=1e-4, anneal_epochs=3),
}


def advance(scheduler: Any) -> None:
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    scheduler.step(1.0) if plateau else scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("cls", [AdamW, Muon])
def test_schedulers_move_the_weights_as_lr_set_by_hand(cls, as_tensor, name):
    """lr is a number or a tensor, which the groups share; its values are those of a torch optimizer beside.

    A tensor stays one where the scheduler leaves torch's own one: ReduceLROnPlateau of torch 2.9 puts a number there.
    """

    def lr() -> Any:
        return torch.tensor(3e-3, dtype=torch.float64) if as_tensor else 3e-3

    scheduled, by_hand = mlp(), mlp()
    optimizer, other = cls(scheduled, lr=lr()), cls(by_hand)
    counterpart = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in optimizer.param_groups], lr=lr())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a first step of the scheduler before one of `counterpart`
        scheduler, reference = SCHEDULERS[name](optimizer), SCHEDULERS[name](counterpart)
        seen = set()
        for t in range(6):
            for group, scheduled_group, beside in zip(
                other.param_groups, optimizer.param_groups, counterpart.param_groups, strict=True
            ):
                assert isinstance(scheduled_group["lr"], Tensor) == isinstance(beside["lr"], Tensor)
                assert scheduled_group["lr"] == beside["lr"]
                group["lr"] = float(beside["lr"])
            assert isinstance(beside["lr"], Tensor) == as_tensor or name == "ReduceLROnPlateau"
            seen.add(other.param_groups[0]["lr"])
            train(scheduled, optimizer, range(t, t + 1))
            train(by_hand, other, range(t, t + 1))
            advance(scheduler)
            advance(reference)
    assert len(seen) > 1
    assert same(weights(list(scheduled.parameters())), weights(list(by_hand.parameters())))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_resume_with_the_optimizer(name):
    """What a scheduler leaves in the groups passes through a checkpoint of both."""
    first, second = mlp(), mlp()
    optimizer, other = AdamW(first), AdamW(second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler, successor = SCHEDULERS[name](optimizer), SCHEDULERS[name](other)
        for t in range(2):
            train(first, optimizer, range(t, t + 1))
            advance(scheduler)
        second.load_state_dict(first.state_dict())
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        successor.load_state_dict(copy.deepcopy(scheduler.state_dict()))
        for t in range(2, 5):
            for model, each, schedule in ((first, optimizer, scheduler), (second, other, successor)):
                train(model, each, range(t, t + 1))
                advance(schedule)
    assert same(weights(list(first.parameters())), weights(list(second.parameters())))
    assert same(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda o, **how: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=8, **how),
        lambda o, **how: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 2, **how),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
def test_the_cycle_of_a_momentum_has_the_bounds_it_is_given(make):
    """Classes without one say so at construction, in torch's words."""
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1 with `cycle_momentum` option"):
        make(ASGD(mlp()))
    model = mlp()
    optimizer = SGD(model, momentum=0.9)
    scheduler = make(optimizer, base_momentum=0.8, max_momentum=0.95)
    seen = set()
    for t in range(4):
        seen.add(optimizer.param_groups[0]["momentum"])
        train(model, optimizer, range(t, t + 1))
        scheduler.step()
    assert len(seen) > 2 and min(seen) >= 0.8 and max(seen) <= 0.95
    SGD(mlp()).load_state_dict(optimizer.state_dict())  # with the keys that the scheduler has added


# -- averaging ---------------------------------------------------------------------------------------------------------


@few_classes
def test_averaged_models_average_the_weights_of_the_steps(cls):
    model = mlp(dtype=torch.float64)
    optimizer = built_or_skipped(cls, model)
    mean = swa_utils.AveragedModel(model)
    moving = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.75), use_buffers=True)
    history = []
    for t in range(4):
        train(model, optimizer, range(t, t + 1))
        mean.update_parameters(model)
        moving.update_parameters(model)
        history.append(weights(list(model.parameters())))
    for i, (averaged, trailing) in enumerate(zip(mean.parameters(), moving.parameters(), strict=True)):
        steps = [step[i] for step in history]
        torch.testing.assert_close(averaged.detach(), sum(steps) / len(steps), rtol=1e-12, atol=1e-12)
        expected = steps[0]
        for step in steps[1:]:
            expected = 0.75 * expected + 0.25 * step
        torch.testing.assert_close(trailing.detach(), expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(averaged, steps[-1])
    assert same(weights(list(model.parameters())), history[-1])


def test_stochastic_weight_averaging_with_batch_norm():
    """The recipe of torch's documentation: SWALR from some step on, an average, and update_bn at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = Muon(model, lr=1e-2)
    averaged = swa_utils.AveragedModel(model)
    scheduler = swa_utils.SWALR(optimizer, swa_lr=1e-3, anneal_epochs=2)
    losses = []
    for t in range(20):
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if t >= 10:
            averaged.update_parameters(model)
            scheduler.step()
    assert all(math.isclose(group["lr"], 1e-3) for group in optimizer.param_groups)
    swa_utils.update_bn([batch(0)[0]], averaged)
    x = batch(0)[0]
    torch.testing.assert_close(averaged.module[1].running_mean, averaged.module[0](x).mean(0))
    assert (averaged(x) - batch(0)[1]).square().mean() < losses[0]


# -- accumulation, and gradients that are released early ---------------------------------------------------------------


@always_few
def test_accumulated_gradients_are_those_of_one_large_batch(cls):
    """In float64, so that the order of sums is all that differs; the steps agree to a millionth."""
    if cls.__name__ in UNDETERMINED:
        pytest.skip("rounding decides between bases of a null space")
    pieces, whole = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    optimizer, other = built_or_skipped(cls, pieces), built_or_skipped(cls, whole)
    start = weights(list(whole.parameters()))
    for t in range(3):
        x, y = batch(t, dtype=torch.float64)
        optimizer.zero_grad()
        for part, target in zip(x.split(4), y.split(4), strict=True):
            ((pieces(part) - target).square().mean() / 4).backward()
        optimizer.step()
        other.zero_grad()
        (whole(x) - y).square().mean().backward()
        other.step()
    for p, q, old in zip(pieces.parameters(), whole.parameters(), start, strict=True):
        moved = float((q.detach() - old).norm())
        assert moved > 0 and float((p.detach() - q.detach()).norm()) <= 1e-6 * moved


@few_classes
def test_gradients_kept_as_zeros_accumulate_like_new_ones(cls):
    """zero_grad(set_to_none=False) keeps the same tensors, which no step may hold on to or write."""
    kept, renewed = mlp(), mlp()
    optimizer, other = built_or_skipped(cls, kept), built_or_skipped(cls, renewed)
    train(kept, optimizer, range(1))
    train(renewed, other, range(1))
    tensors = [p.grad for p in kept.parameters()]
    for t in range(1, 4):
        optimizer.zero_grad(set_to_none=False)
        assert all(not p.grad.any() for p in kept.parameters())
        loss_of(kept, t).backward()
        optimizer.step()
    train(renewed, other, range(1, 4))
    assert all(p.grad is grad for p, grad in zip(kept.parameters(), tensors, strict=True))
    assert same(weights(list(kept.parameters())), weights(list(renewed.parameters())))


def release_each(model: nn.Module, optimizers: dict[Tensor, Any]) -> None:
    """As in torch's tutorial: as soon as a gradient is there, its parameter steps and the gradient is freed."""

    def hook(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)


@few_classes
@pytest.mark.parametrize("one_for_all", [False, True])
def test_gradient_release_equals_the_ordinary_loop(cls, one_for_all):
    """With an optimizer for each parameter, and with one for all whose steps each see a single gradient."""
    needs_independent_parameters(cls)
    ordinary, released = mlp(), mlp()
    optimizer = built_or_skipped(cls, ordinary)
    if one_for_all:
        single = build(cls, released)
        optimizers = dict.fromkeys(released.parameters(), single)
    else:
        roles_of = {p: g["rule"] for g in build(cls, released).param_groups for p in g["params"]}
        optimizers = {p: build(cls, [{"params": [p], "rule": rule}]) for p, rule in roles_of.items()}
    release_each(released, optimizers)
    train(ordinary, optimizer, range(4))
    for t in range(4):
        loss_of(released, t).backward()
        assert all(p.grad is None for p in released.parameters())
    assert same(weights(list(released.parameters())), weights(list(ordinary.parameters())))
    for p, q in zip(released.parameters(), ordinary.parameters(), strict=True):
        assert same(dict(optimizers[p].state[p]), dict(optimizer.state[q]))


# -- parameters of every kind ------------------------------------------------------------------------------------------


@few_classes
def test_devices_are_never_mixed(cls):
    """Parameters on the meta device beside those of the CPU: each bucket is of one device, and neither run disturbs the
    other. (A total, which is a number that all devices share, cannot be formed from tensors without data.)"""
    if has_totals(cls):
        pytest.skip("totals need data")
    made, alone = groups(cls), groups(cls)
    without_data = [
        {**group, "params": [nn.Parameter(torch.empty_like(p, device="meta")) for p in group["params"]]}
        for group in groups(cls)
    ]
    optimizer, other = build(cls, made + without_data), build(cls, alone)
    for t in range(2):
        for p in parameters(without_data):
            p.grad = torch.empty_like(p)
        run(optimizer, parameters(made), range(t, t + 1))
        run(other, parameters(alone), range(t, t + 1))
    assert same(weights(parameters(made)), weights(parameters(alone)))
    for p in parameters(without_data):
        assert optimizer.state[p]["step"] == 2
        assert all(x.device.type == "meta" for name, x in optimizer.state[p].items() if name != "step")


@every_class
def test_parameters_of_size_zero_never_step(cls):
    for role in roles(cls):
        for shape in [(0, 4), (4, 0), (2, 0, 3, 3), *([(0,)] if role == "vector" else [])]:
            p = nn.Parameter(torch.zeros(shape))
            optimizer = build(cls, [{"params": [p], "rule": role}])
            p.grad = torch.zeros_like(p)
            optimizer.step()
            assert is_untouched(optimizer, p)
            fresh = build(cls, [{"params": [nn.Parameter(torch.zeros(shape))], "rule": role}])
            fresh.load_state_dict(optimizer.state_dict())


@few_classes
def test_tied_parameters_step_once_with_the_sum_of_their_gradients(cls):
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.decoder = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.encoder(x)))

    model, by_hand = Autoencoder(), nn.Parameter(Autoencoder().encoder.weight.detach().clone())
    optimizer = build(cls, model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 1
    other = build(cls, [{"params": [by_hand], "rule": optimizer.param_groups[0]["rule"]}])
    for t in range(3):
        x = batch(t)[0]
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        other.zero_grad()
        (torch.tanh(x @ by_hand.mT) @ by_hand.mT - x).square().mean().backward()
        other.step()
    torch.testing.assert_close(model.encoder.weight, by_hand, rtol=1e-5, atol=1e-6)
    assert optimizer.state[model.encoder.weight].get("step") == 3


def test_parameters_that_share_memory_are_errors():
    """One would undo the step of the other, unseen. Parts of one buffer that do not overlap are parameters like any."""
    shared = torch.ones(4, 3)
    p, q = nn.Parameter(shared), nn.Parameter(shared)
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(4, 3\), share their memory"):
        AdamW([p, q])
    optimizer = AdamW([p])
    with pytest.raises(ValueError, match="share their memory"):
        optimizer.add_param_group({"params": [q]})
    assert len(optimizer.param_groups) == 1
    flat = torch.zeros(24)
    parts = [nn.Parameter(flat[:12].view(4, 3)), nn.Parameter(flat[12:].view(4, 3))]
    separate = [nn.Parameter(torch.zeros(4, 3)) for _ in range(2)]
    for params in (parts, separate):
        run(AdamW(params), params, range(2))
    assert torch.equal(torch.cat([p.detach().flatten() for p in separate]), flat)


def test_expanded_weights_are_errors():
    p = nn.Parameter(torch.ones(1, 3).expand(4, 3))
    for cls in (AdamW, Muon):
        with pytest.raises(RuntimeError, match=r"shape \(4, 3\) is expanded.*clone\(\)"):
            cls([p])
    run(AdamW([q := nn.Parameter(torch.ones(4, 1).expand(4, 1))]), [q], range(1))


@few_classes
def test_frozen_and_thawed_parameters_keep_their_place(cls):
    """requires_grad=False stops a parameter, also with a gradient of None left behind; its state waits for it."""
    needs_independent_parameters(cls)
    model, reference = mlp(), mlp()
    optimizer, other = built_or_skipped(cls, model), built_or_skipped(cls, reference)
    train(model, optimizer, range(2))
    model[0].requires_grad_(False)
    before, state = weights(list(model[0].parameters())), copy.deepcopy(dict(optimizer.state[model[0].weight]))
    train(model, optimizer, range(2, 4))
    assert same(weights(list(model[0].parameters())), before)
    assert same(dict(optimizer.state[model[0].weight]), state)
    model[0].requires_grad_(True)
    train(model, optimizer, range(4, 5))

    train(reference, other, range(2))
    for t in range(2, 4):
        other.zero_grad()
        loss_of(reference, t).backward()
        for p in reference[0].parameters():
            p.grad = None
        other.step()
    train(reference, other, range(4, 5))
    assert same(weights(list(model.parameters())), weights(list(reference.parameters())))


@few_classes
def test_parameters_frozen_from_the_start_are_given_and_ignored(cls):
    model = mlp()
    model[0].requires_grad_(False)
    before = weights(list(model[0].parameters()))
    optimizer = built_or_skipped(cls, model)
    train(model, optimizer, range(2))
    assert same(weights(list(model[0].parameters())), before)
    assert not any(p in optimizer.state for p in model[0].parameters())


@few_classes
def test_parameters_added_in_mid_run_begin_there(cls):
    """The added ones step as in an optimizer begun at that moment; the first ones as if nothing had been added."""
    needs_independent_parameters(cls)
    made, late, alone, fresh = groups(cls), groups(cls, seed=1), groups(cls), groups(cls, seed=1)
    optimizer, first, second = build(cls, made), build(cls, alone), build(cls, fresh)
    run(optimizer, parameters(made), range(2))
    run(first, parameters(alone), range(2))
    for group in late:
        optimizer.add_param_group(group)
    for t in range(2, 5):
        for params in (parameters(made), parameters(late), parameters(alone), parameters(fresh)):
            set_gradients(params, t)
        for each in (optimizer, first, second):
            each.step()
    assert same(weights(parameters(made)), weights(parameters(alone)))
    assert same(weights(parameters(late)), weights(parameters(fresh)))


LAYOUTS = {
    "as the weight": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t() if x.ndim == 2 else x.contiguous(memory_format=torch.channels_last),
    "a slice": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "reversed storage": lambda x: x.flip(0).clone().flip(0),
}


@few_classes
@pytest.mark.parametrize("weight_layout", ["transposed", "a slice"])
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_weights_and_gradients_may_lie_in_memory_differently(cls, weight_layout, grad_layout):
    shapes = {"matrix": (6, 4), "conv": (4, 3, 2, 2), "embedding": (7, 4), "head": (7, 4)}
    role = next(role for role in roles(cls) if role in shapes)
    start = torch.randn(shapes[role], generator=torch.Generator().manual_seed(0))
    contiguous, strided = nn.Parameter(start.clone()), nn.Parameter(LAYOUTS[weight_layout](start.clone()))
    assert not strided.is_contiguous()
    optimizer, other = (build(cls, [{"params": [p], "rule": role}]) for p in (contiguous, strided))
    optimizer.backend = other.backend = "eager"  # torch's fused kernels take one layout, and round a little differently
    strides = strided.stride()
    for t in range(3):
        grad = torch.randn(start.shape, generator=torch.Generator().manual_seed(t + 1))
        contiguous.grad = grad
        strided.grad = LAYOUTS[grad_layout](grad.clone())
        optimizer.step()
        other.step()
    assert torch.equal(contiguous, strided) and strided.stride() == strides
    assert same(dict(optimizer.state[contiguous]), dict(other.state[strided]))


# -- where a step is called --------------------------------------------------------------------------------------------


@few_classes
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_defaults_of_the_process_do_not_reach_a_step(cls, default):
    """torch.set_default_dtype, set_default_device and deterministic algorithms, as they may be set around anything."""
    ordinary, made = groups(cls), groups(cls)
    run(build(cls, ordinary), parameters(ordinary), range(2))
    optimizer, params = build(cls, made), parameters(made)
    for t in range(2):
        set_gradients(params, t)
        torch.set_default_dtype(default)
        torch.use_deterministic_algorithms(True)
        try:
            with torch.device("meta"):
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
    assert same(weights(params), weights(parameters(ordinary)))


def test_tensors_made_in_inference_mode_are_refused_as_by_torch():
    """They can only be written inside of it: torch's error, from a torch class and from ours."""
    for cls, options in ((torch.optim.AdamW, {}), (AdamW, {"backend": "eager"})):
        with torch.inference_mode():
            p = nn.Parameter(torch.ones(3))
        optimizer = cls([p], **options)
        p.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            optimizer.step()
        with torch.inference_mode():
            optimizer.step()
        assert not torch.equal(p, torch.ones(3))


def test_leaves_that_are_no_parameters_can_be_optimized():
    """Tensors of torch.func.functional_call, and what torch.func.grad gives for them."""
    model, functional = mlp(), mlp()
    optimizer = AdamW(model)
    tensors = {name: p.detach().clone().requires_grad_() for name, p in functional.named_parameters()}
    other = AdamW(list(tensors.items()))

    def loss(values: dict[str, Tensor], step: int) -> Tensor:
        x, y = batch(step)
        return (torch.func.functional_call(functional, values, (x,)) - y).square().mean()

    for t in range(3):
        train(model, optimizer, range(t, t + 1))
        for name, grad in torch.func.grad(loss)({n: v.detach() for n, v in tensors.items()}, t).items():
            tensors[name].grad = grad
        other.step()
    assert other.param_groups[0]["param_names"] == list(tensors)
    for p, q in zip(model.parameters(), tensors.values(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)


# -- models in all their forms -----------------------------------------------------------------------------------------


@few_classes
def test_weight_norm_and_other_parametrizations(cls):
    """The parameters are those of the parametrization: a gain per row and a direction; the weight itself is none."""
    model = mlp()
    torch.nn.utils.parametrizations.weight_norm(model[0])
    torch.nn.utils.parametrizations.orthogonal(model[2])
    named = dict(model.named_parameters())
    assert "0.parametrizations.weight.original0" in named and "0.weight" not in named
    optimizer = built_or_skipped(cls, model)
    before = {name: p.detach().clone() for name, p in named.items()}
    first = loss_of(model, 0).item()
    train(model, optimizer, range(3))
    moved = [name for name, p in named.items() if not torch.equal(p, before[name])]
    assert len(moved) == len(named)
    assert math.isfinite(loss_of(model, 0).item()) and loss_of(model, 0).item() != first
    gain, direction = named["0.parametrizations.weight.original0"], named["0.parametrizations.weight.original1"]
    expected = gain * direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model[0].weight, expected)


def test_lazy_modules_are_errors_until_they_have_run():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet: run the model once"):
        Muon(model)
    with pytest.raises(ValueError, match=r"^weight has no shape yet: run the model once"):
        Muon(model[0])
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        Muon(model.parameters())
    model(torch.ones(1, 3))
    optimizer = Muon(model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert len(optimizer.state) == 4


@pytest.mark.wide
def test_a_compiled_model_trains_like_the_model():
    """torch.compile wraps a module: names get a prefix, parameters and roles stay the same."""
    model = mlp()
    compiled = torch.compile(mlp(), backend="aot_eager")
    optimizer, other = Muon(model), Muon(compiled)
    assert [g["rule"] for g in optimizer.param_groups] == [g["rule"] for g in other.param_groups]
    train(model, optimizer, range(3))
    train(compiled, other, range(3))
    for p, q in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# -- more than one process ---------------------------------------------------------------------------------------------

DDP = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from optforge.generated import NAMO, AdamW, Muon

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
for cls in (AdamW, Muon, NAMO):
    def made():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    plain, wrapped = made(), nn.parallel.DistributedDataParallel(made())
    optimizer, other = cls(plain), cls(wrapped)
    assert [g["rule"] for g in optimizer.param_groups] == [g["rule"] for g in other.param_groups]
    for t in range(4):
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
        y = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        part = slice(4 * rank, 4 * rank + 4)
        for model, each, rows in ((plain, optimizer, slice(None)), (wrapped, other, part)):
            each.zero_grad()
            (model(x[rows]) - y[rows]).square().mean().backward()
            each.step()
    for p, q, start in zip(plain.parameters(), wrapped.parameters(), made().parameters(), strict=True):
        moved = (p - start).norm()
        assert moved > 0 and (p - q).norm() <= 1e-9 * moved, (cls, (p - q).norm() / moved)
        both = [torch.empty_like(q.detach()) for _ in range(2)]
        dist.all_gather(both, q.detach())
        assert torch.equal(*both), "replicas have parted"

dist.barrier()
dist.destroy_process_group()
print("done", rank)
"""


@pytest.mark.wide
def test_data_parallel_replicas_equal_one_process(tmp_path):
    """Two processes that each see half of a batch, over gloo: to rounding the run of one, and bitwise each other's."""
    script = tmp_path / "replica.py"
    script.write_text(textwrap.dedent(DDP))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    replicas = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [replica.communicate(timeout=180)[0] for replica in replicas]
    finally:
        for replica in replicas:
            replica.kill()
    for rank, (replica, output) in enumerate(zip(replicas, outputs, strict=True)):
        assert replica.returncode == 0 and f"done {rank}" in output, output
