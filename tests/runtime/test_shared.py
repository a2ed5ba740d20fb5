"""What parameters of a rule share: `shared d = ...`, one number whatever group they are in and whenever they begin."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import optforge
from optforge.generated import Prodigy

# `d` counts and sums up; `shared_t` is how many steps the rule has taken, and `n` is an average that a function keeps.
SPEC = """
optimizer Counting:
    hyper lr = 0.01 where lr > 0
    hyper d0 = 0.5  where d0 > 0

    for tensor:
        size = total(sum(abs(grad)))
        m    = ema(grad, 0.9)

        shared d = max(prev(d, d0), prev(d, d0) + size / (1 + t))
        shared n = ema(size, 0.5)
        weight <- weight - lr * (m + d + n)
"""
SHARED = ("d", "n", "shared_t")


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    path = tmp_path_factory.mktemp("specs") / "counting.opt"
    path.write_text(SPEC)
    return optforge.load(path)


def parameters(*sizes: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)) for size in sizes]


def step(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], grads: list[int]) -> None:
    """A step in which the parameters of these places have gradients."""
    generator = torch.Generator().manual_seed(len(grads))
    for place, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = grad if place in grads else None
    optimizer.step()


def copies(optimizer: torch.optim.Optimizer, name: str = "d") -> list[float]:
    return [float(entry[name]) for entry in optimizer.state.values() if entry["step"]]


def by_hand(params: list[nn.Parameter], d: float, n: float, t: int) -> tuple[float, float]:
    """What d and n become in step t, from the gradients that are there."""
    size = sum(float(p.grad.abs().sum()) for p in params if p.grad is not None)
    return max(d, d + size / (1 + t)), 0.5 * n + 0.5 * size


def test_one_value_for_parameters_that_rest_and_that_come_late(counting):
    """Also in another group, after a step in which no old one took part, and for one that was never there before."""
    params = parameters(3, 4, 5)
    optimizer = counting([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}])
    d, n = 0.5, 0.0
    for t, grads in enumerate([[0], [0], [1], [0, 1], [2], [0, 2], [0]], 1):
        step(optimizer, params, grads)
        d, n = by_hand(params, d, n, t)
        assert len({*copies(optimizer)}) == 1 and copies(optimizer)[0] == pytest.approx(d, rel=1e-12)
        assert copies(optimizer, "n") == pytest.approx([n] * len(copies(optimizer)), rel=1e-12)
        assert {*copies(optimizer, "shared_t")} == {t}
    late = parameters(6)
    optimizer.add_param_group({"params": late})
    step(optimizer, params + late, [3])
    d, n = by_hand(params + late, d, n, 8)
    assert copies(optimizer) == pytest.approx([d] * 4, rel=1e-12)
    assert [int(optimizer.state[p]["step"]) for p in late] == [1]


def test_dtypes_and_backends_share_one_value(counting):
    """Each keeps the value in its own dtype; that of the widest one goes to all."""
    params = [*parameters(3), *parameters(4, dtype=torch.float32), *parameters(5, dtype=torch.bfloat16)]
    optimizer = counting(params)
    step(optimizer, params, [1, 2])
    step(optimizer, params, [0, 1, 2])
    step(optimizer, params, [1])
    wide, *narrow = copies(optimizer)
    assert {*narrow} == {float(torch.tensor(wide, dtype=torch.float32))}


def test_groups_give_the_hypers_that_shared_values_follow_from_alike(counting):
    """`lr` may differ; a group that comes later is refused at its first step, before anything has changed."""
    params = parameters(3, 4)
    optimizer = counting([{"params": params[:1]}, {"params": params[1:], "lr": 1.0}])
    step(optimizer, params, [0, 1])
    optimizer.param_groups[1]["d0"] = 0.25
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"d0=0\.5 and d0=0\.25, and their parameters share 'd'"):
        step(optimizer, params, [0, 1])
    assert all(map(torch.equal, params, before))
    optimizer.param_groups[0]["d0"] = torch.tensor(0.25)
    step(optimizer, params, [0, 1])


ROUTES = {
    "state_dict": lambda old, new: new.load_state_dict(old.state_dict()),
    "saved": lambda old, new: new.load_state_dict(saved(old.state_dict())),
    "safetensors": lambda old, new: new.load_state_dict(apart(old.state_dict())),
}


def saved(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def apart(state: dict) -> dict:
    """Every tensor in memory of its own, which safetensors ask for."""
    places = [x.data_ptr() for entry in state["state"].values() for x in entry.values()]
    assert len({*places}) == len(places)
    return {**state, "state": {k: {n: x.clone() for n, x in entry.items()} for k, entry in state["state"].items()}}


@pytest.mark.parametrize("route", ROUTES)
def test_checkpoints_hold_it_for_parameters_that_begin_after_loading(counting, route):
    """The one that is not in the checkpoint yet begins with the value of those that are."""
    params = parameters(3, 4)
    one = counting(params)
    step(one, params, [0])
    step(one, params, [0])
    others = [nn.Parameter(p.detach().clone()) for p in params]
    two = counting(others)
    ROUTES[route](one, two)
    for optimizer, owned in ((one, params), (two, others)):
        step(optimizer, owned, [1])
        step(optimizer, owned, [0, 1])
    assert all(map(torch.equal, params, others))
    assert all(copies(one, name) == copies(two, name) and len(copies(two, name)) == 2 for name in SHARED)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copies(other) == copies(one)


@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoints_hold_it(flatten):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (net(torch.ones(3, 4)) - 3).square().mean().backward()
            optimizer.step()

    one, two = model(), model()
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    old = Prodigy(one, d0=1e-3)
    for p in one[1].parameters():
        p.requires_grad_(False)
    train(one, old, 4)
    for net in (one, two):
        for p in net[1].parameters():
            p.requires_grad_(True)
    new = Prodigy(two, d0=1e-3)
    set_optimizer_state_dict(two, new, get_optimizer_state_dict(one, old, options=options), options=options)
    two.load_state_dict(one.state_dict())
    for net, optimizer in ((one, old), (two, new)):
        train(net, optimizer, 3)
    assert len(copies(new)) == 4 and {*copies(new)} == {*copies(old)} and copies(new)[0] > 1e-3
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def test_copies_that_differ_are_refused(counting):
    params = parameters(3, 4)
    optimizer = counting(params)
    step(optimizer, params, [0, 1])
    state = optimizer.state_dict()
    state["state"][1] = {**state["state"][1], "d": state["state"][1]["d"] + 1}
    with pytest.raises(ValueError, match="the parameters of the rule 'tensor' share one"):
        optimizer.load_state_dict(state)


def test_an_extension_keeps_shared_what_its_base_shares(tmp_path):
    path = tmp_path / "longer.opt"
    path.write_text(SPEC + "\n\noptimizer Longer extends Counting:\n    for tensor:\n        d = 2 * super\n")
    optimizer_class = optforge.load(path, "Longer")
    assert {kept.name for kept in optimizer_class.RULES[0].states if kept.shared is not None} == {*SHARED}


def test_compiled_steps_share_as_written_ones(counting):
    found: list[list[Tensor]] = []
    for backend in ("eager", "compile"):
        params = parameters(3, 4)
        optimizer = counting(params, backend=backend)
        for grads in ([0], [0, 1], [1]):
            step(optimizer, params, grads)
        found.append([*params, *(torch.tensor(copies(optimizer, name)) for name in SHARED)])
    assert all(torch.allclose(one, other, rtol=1e-12) for one, other in zip(*found, strict=True))
