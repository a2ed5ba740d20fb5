"""What a composition means: names, roles, hypers, events and checkpoints of an optimizer with wrappers around it."""

from __future__ import annotations

import inspect
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from torch import nn

import optforge

BASE = """
optimizer Base:
    hyper lr           = 0.1 where lr >= 0
    hyper beta         = 0.5 where 0 <= beta < 1
    hyper weight_decay = 0.1 where weight_decay >= 0
    for matrix:
        m = ema(grad, beta)
        weight <- weight - lr * (m + weight_decay * weight)
    for rest: use Rest(lr=2 * lr)

optimizer Rest:
    hyper lr   = 0.1 where lr >= 0
    hyper wait = 0   where wait >= 0
    for tensor:
        jump = grad - prev(grad)
        weight <- weight - lr * jump if t > wait else weight
"""

SMOOTH = """
wrapper Smooth:
    hyper beta = 0.9 where 0 <= beta < 1
    for tensor:
        m = beta * prev(m) + (1 - beta) * grad
        weight <- step(m)
"""


def compiled(*texts: str) -> ModuleType:
    return optforge.compile_source("\n".join(texts))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()


def train(optimizer: torch.optim.Optimizer, net: nn.Module, steps: range) -> None:
    for step in steps:
        dice = torch.Generator().manual_seed(step)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=dice, dtype=torch.float64)
        optimizer.step()


def weights_after(cls: type, steps: int = 5, **hypers: object) -> list[torch.Tensor]:
    net = model()
    train(cls(net, **hypers), net, range(steps))
    return [parameter.detach() for parameter in net.parameters()]


def assert_same(one: type, other: type, **hypers: object) -> None:
    for found, expected in zip(weights_after(one, **hypers), weights_after(other, **hypers), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_names_of_states_and_hypers_say_whose_they_are():
    cls = compiled(BASE, SMOOTH, "optimizer Twice = Base(lr=0.3) |> Smooth(beta=0.8) |> Smooth").Twice
    defaults = {name: each.default for name, each in inspect.signature(cls).parameters.items()}
    assert (defaults["lr"], defaults["beta"], defaults["smooth_beta"], defaults["smooth2_beta"]) == (0.3, 0.5, 0.8, 0.9)
    net = model()
    optimizer = cls(net)
    train(optimizer, net, range(2))
    assert {"m", "Smooth.m", "Smooth2.m"} < optimizer.state[net[0].weight].keys()
    with pytest.raises(ValueError, match="smooth_beta"):
        cls(model(), smooth_beta=1.5)


def test_a_composition_is_what_it_is_written_out():
    written_out = """
    optimizer Written:
        hyper lr           = 0.1 where lr >= 0
        hyper beta         = 0.5 where 0 <= beta < 1
        hyper weight_decay = 0.1 where weight_decay >= 0
        for matrix:
            g = ema(grad, 0.9)
            m = ema(g, beta)
            weight <- weight - lr * (m + weight_decay * weight)
        for rest:
            g    = ema(grad, 0.9)
            jump = g - prev(g)
            weight <- weight - 2 * lr * jump if t > 0 else weight
    """
    found = compiled(BASE, SMOOTH, "optimizer Composed = Base |> Smooth")
    expected = optforge.compile_source(inspect.cleandoc(written_out)).Written
    assert_same(found.Composed, expected)
    assert_same(found.Composed, expected, lr=0.3, beta=0.2)


def test_wrappers_are_for_the_roles_that_they_say():
    matrices = "wrapper Halved:\n    for matrix:\n        weight <- step(grad / 2)"
    everything = "wrapper Halved:\n    for tensor:\n        weight <- step(grad / 2)"
    plain = compiled(BASE).Base
    for text in (
        f"{matrices}\noptimizer Mine = Base |> Halved",
        f"{everything}\noptimizer Mine = Base |> Halved(only=matrix)",
    ):
        wrapped = weights_after(compiled(BASE, text).Mine)
        for name, one, other in zip(("w", "b", "n", "n", "head", "b"), wrapped, weights_after(plain), strict=True):
            assert torch.equal(one, other) is (name != "w")


def test_step_gives_hypers_other_values():
    wrapper = """
    wrapper Ramped:
        for tensor:
            weight <- step(grad, lr=super * min(t / 3, 1), weight_decay=0)
    """
    by_hand = """
    optimizer Ramp:
        hyper lr   = 0.1 where lr >= 0
        hyper beta = 0.5 where 0 <= beta < 1
        for matrix:
            m = ema(grad, beta)
            weight <- weight - lr * min(t / 3, 1) * m
        for rest:
            jump = grad - prev(grad)
            weight <- weight - 2 * lr * min(t / 3, 1) * jump if t > 0 else weight
    """
    found = compiled(BASE, inspect.cleandoc(wrapper), "optimizer Mine = Base |> Ramped").Mine
    assert "weight_decay" not in inspect.signature(found).parameters
    assert_same(found, optforge.compile_source(inspect.cleandoc(by_hand)).Ramp)


@pytest.mark.parametrize(
    "name, base, stream",
    [("CautiousMuon", "Muon", "update"), ("CautiousNora", "Nora", "d"), ("CautiousNorMuon", "NorMuon", "d")],
)
def test_a_new_direction_takes_the_place_of_the_old_one_to_the_bit(name, base, stream):
    extended = f"optimizer Extended extends {base}:\n    for matrix:\n        {stream} = cautious(super, grad)"
    expected = weights_after(optforge.compile_source(extended).Extended)
    assert all(map(torch.equal, weights_after(optforge.load(name)), expected))


def test_compositions_are_extended_and_used_as_other_optimizers_are():
    text = """
    optimizer Composed = Base |> Smooth

    optimizer Longer extends Composed:
        hyper smooth_beta = 0.7 where 0 <= smooth_beta < 1
        for matrix:
            m = ema(grad, beta / 2)

    optimizer User:
        hyper lr = 0.1 where lr >= 0
        for matrix:
            weight <- weight - lr * grad
        for rest: use Composed(lr=lr, smooth_beta=0.8)
    """
    module = compiled(BASE, SMOOTH, inspect.cleandoc(text))
    direct = compiled(
        BASE.replace("ema(grad, beta)", "ema(grad, beta / 2)"), SMOOTH, "optimizer Direct = Base |> Smooth(beta=0.7)"
    )
    assert_same(module.Longer, direct.Direct)
    used = weights_after(module.User)
    alone = weights_after(module.Composed, smooth_beta=0.8)
    for index, is_used in enumerate((False, True, True, True, True, True)):
        assert torch.allclose(used[index], alone[index], rtol=0, atol=1e-13) is is_used


def test_events_of_one_name_are_one_event():
    text = """
    wrapper Counted:
        on look(scale=1):
            seen = scale * norm(grad)
        for tensor:
            weight <- step(grad / (1 + seen))

    optimizer Curved:
        on look():
            h = ema(grad^2, 0.9)
        for tensor:
            weight <- weight - 0.1 * grad / (1 + h)

    optimizer Both = Curved |> Counted
    """
    cls = optforge.compile_source(inspect.cleandoc(text)).Both
    parameter = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    parameter.grad = torch.full((2, 2), 2.0, dtype=torch.float64)
    optimizer = cls([parameter])
    optimizer.look(scale=0.5)
    optimizer.step()
    expected = 1 - 0.1 * (2 / (1 + 0.5 * 4)) / (1 + 0.1 * 4)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), expected, dtype=torch.float64))


def test_training_goes_on_to_the_bit_from_a_checkpoint():
    cls = optforge.load("Muon |> Grokfast(alpha=0.5) |> Lookahead(every=3) |> ScheduleFree")
    whole = model()
    optimizer = cls(whole)
    train(optimizer, whole, range(4))
    saved, weights = deepcopy(optimizer.state_dict()), deepcopy(whole.state_dict())
    train(optimizer, whole, range(4, 8))
    resumed = model(1)
    resumed.load_state_dict(weights)
    other = cls(resumed)
    other.load_state_dict(saved)
    train(other, resumed, range(4, 8))
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


def test_what_states_of_wrappers_were_is_said_by_their_old_names():
    old = SMOOTH.replace("m ", "average ").replace("prev(m)", "prev(average)").replace("step(m)", "step(average)")
    new = SMOOTH.replace("weight <-", "m was average\n        weight <-").replace(
        "hyper beta =", "hyper decay = 0.9 was beta  #"
    )
    new = new.replace("beta *", "decay *").replace("1 - beta", "1 - decay")
    before = compiled(BASE, old, "optimizer Mine = Base |> Smooth").Mine
    after = compiled(BASE, new, "optimizer Mine = Base |> Smooth").Mine
    net = model()
    optimizer = before(net, smooth_beta=0.25)
    train(optimizer, net, range(3))
    other = after(model())
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["smooth_decay"] == 0.25
    kept = [state["Smooth.m"] for state in other.state.values()]
    assert all(map(torch.equal, kept, [state["Smooth.average"] for state in optimizer.state.values()]))


@pytest.mark.parametrize(
    "moved",
    [
        "weight + lr * up",
        "lr * up + weight",
        "moved + weight",
        "weight - lr * (-up)",
        "weight - (-(lr * up))",
        "(weight + lr * up) * 1",
    ],
)
def test_a_direction_that_is_added_is_what_would_be_subtracted(moved: str) -> None:
    """Whichever way a step is written, the wrapper sees what lies against the weight's movement, and gives such."""
    spec = """
    optimizer Up:
        hyper lr = 0.1 where lr >= 0
        for tensor:
            up = -grad
            moved = lr * up
            weight <- {}
    wrapper Kept:
        for tensor:
            direction = 0.5 * super if super * grad > 0 else 0
            weight <- step(grad)
    optimizer Both = Up |> Kept
    """
    (_, *after) = weights_after(compiled(inspect.cleandoc(spec).format(moved)).Both, 1)
    (_, *whole) = weights_after(compiled(inspect.cleandoc(spec).format(moved)).Up, 1)
    for parameter, kept, plain in zip(list(model().parameters())[1:], after, whole, strict=True):
        torch.testing.assert_close(kept - parameter, 0.5 * (plain - parameter), rtol=1e-12, atol=1e-15)


def test_a_wrapper_that_looks_at_no_side_fits_around_oriented_rules_with_repetitions() -> None:
    wide = """
    optimizer Wide:
        for matrix as wide:
            weight <- weight - 0.1 * ((grad @ grad') |> tanh times 2) @ grad
        for rest: use SGD()
    wrapper Half:
        for tensor:
            weight <- weight + (step(grad) - weight) / 2
    optimizer Both = Wide |> Half
    """
    module = compiled(inspect.cleandoc(wide))
    (_, *half), (_, *whole) = weights_after(module.Both, 1), weights_after(module.Wide, 1)
    for parameter, one, two in zip(list(model().parameters())[1:], half, whole, strict=True):
        torch.testing.assert_close(one - parameter, (two - parameter) / 2, rtol=1e-12, atol=1e-15)


def test_parts_of_a_rule_have_names_of_their_own() -> None:
    """A wrapper for some of a rule's roles makes two rules of it; groups and checkpoints tell them apart by name."""
    spec = """
    optimizer Plain:
        for matrix, embedding, head:
            m = ema(grad, 0.9)
            weight <- weight - 0.1 * m
        for rest: use SGD()
    wrapper Half:
        for matrix:
            weight <- weight + (step(grad) - weight) / 2
    wrapper Other:
        for embedding:
            weight <- weight + (step(grad) - weight) / 4
    optimizer Both = Plain |> Half |> Other
    """
    cls = compiled(inspect.cleandoc(spec)).Both
    names = {rule.name: rule.roles for rule in cls.RULES}
    assert names == {"matrix": ("matrix", "conv"), "embedding": ("embedding",), "head": ("head",), "rest": ("vector",)}
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.ones(3, 2)
    for name, share in (("matrix", 0.5), ("embedding", 0.25), ("head", 1.0)):
        weight.data.zero_()
        cls([{"params": [weight], "rule": name}]).step()
        torch.testing.assert_close(weight.detach(), torch.full((3, 2), -0.1 * 0.1 * share))
