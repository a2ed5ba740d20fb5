"""Methods that only show on gradients which depend on the weights: SAM's climb, views of a mean, Prodigy's distance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optforge
from optforge.generated import ASGD, SAM, SGD, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD
from tests.references import REFERENCES
from tests.references.prodigy import Prodigy as ReferenceProdigy

TOLERANCE = 1e-9
SHAPES = ((4, 3), (5,), (2, 3, 2))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Bowl:
    """A quartic bowl around a point, with its own weights: every gradient depends on where it is taken."""

    def __init__(self) -> None:
        self.params = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
        self.centres = [randn(*shape, seed=10 + i) for i, shape in enumerate(SHAPES)]

    def loss(self) -> Tensor:
        distances = [p - centre for p, centre in zip(self.params, self.centres, strict=True)]
        return torch.stack([(0.5 * d**2 + 0.1 * d**4).sum() for d in distances]).sum()

    def differentiate(self) -> None:
        for p, grad in zip(self.params, torch.autograd.grad(self.loss(), self.params), strict=True):
            p.grad = grad

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.params]


def trained(
    make: Callable[[Any], Any], steps: int, step: Callable[[Bowl, Any], None]
) -> tuple[Any, list[list[Tensor]]]:
    """The optimizer, and the weights before and after each step."""
    bowl = Bowl()
    optimizer = make(bowl.params)
    history = [bowl.weights()]
    for _ in range(steps):
        step(bowl, optimizer)
        history.append(bowl.weights())
    return optimizer, history


def plain_step(bowl: Bowl, optimizer: Any) -> None:
    bowl.differentiate()
    optimizer.step()


def climbing_step(bowl: Bowl, optimizer: Any) -> None:
    bowl.differentiate()
    optimizer.ascend()
    bowl.differentiate()
    optimizer.step()


def require_same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for before, ours, theirs in zip(expected, found[1:], expected[1:], strict=False):
        for start, our, their in zip(before, ours, theirs, strict=True):
            assert float((our - their).norm()) <= TOLERANCE * float((their - start).norm())


# -- SAM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hypers", [{}, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "rho": 0.3}], ids=str)
def test_sam_climbs_and_returns_as_the_reference(hypers):
    _, found = trained(lambda params: SAM(params, lr=0.05, **hypers), 20, climbing_step)
    _, expected = trained(lambda params: REFERENCES["SAM"](params, lr=0.05, **hypers), 20, climbing_step)
    require_same(found, expected)


def test_sam_steps_by_the_gradient_found_uphill():
    bowl, moved = Bowl(), Bowl()
    start = bowl.weights()
    bowl.differentiate()
    norm = torch.stack([p.grad.square().sum() for p in bowl.params]).sum().sqrt()
    with torch.no_grad():
        for p, q in zip(moved.params, bowl.params, strict=True):
            p.add_(0.5 * q.grad / norm)
    moved.differentiate()
    climbing_step(bowl, SAM(bowl.params, lr=0.1, rho=0.5))
    for p, q, weight in zip(bowl.params, moved.params, start, strict=True):
        torch.testing.assert_close(p.detach(), weight - 0.1 * q.grad, rtol=1e-13, atol=1e-13)


def test_steps_without_a_climb_are_those_of_sgd():
    def now_and_then(bowl: Bowl, optimizer: Any) -> None:
        climbing_step(bowl, optimizer)
        plain_step(bowl, optimizer)

    _, found = trained(lambda params: SAM(params, lr=0.1, momentum=0.9), 5, plain_step)
    _, expected = trained(lambda params: SGD(params, lr=0.1, momentum=0.9), 5, plain_step)
    require_same(found, expected)
    _, found = trained(lambda params: SAM(params, lr=0.1), 5, now_and_then)
    _, expected = trained(lambda params: REFERENCES["SAM"](params, lr=0.1), 5, now_and_then)
    require_same(found, expected)


@pytest.mark.parametrize("missed", ["none", "all", "nonfinite"])
def test_climbs_without_a_step_are_taken_back_with_the_next_one(missed):
    """What a step leaves as it is, for want of a gradient or of a finite one, stays where it has climbed to."""
    bowl = Bowl()
    start, optimizer = bowl.weights(), SAM(bowl.params, lr=0.1, skip_nonfinite=True)
    for _ in range(2):
        bowl.differentiate()
        optimizer.ascend()
        bowl.differentiate()
        if missed != "none":
            bowl.params[0].grad = None if missed == "all" else torch.full_like(bowl.params[0], torch.nan)
            bowl.params[1].grad = bowl.params[2].grad = None
            optimizer.step()
    bowl.differentiate()
    optimizer.step()
    for p, weight in zip(bowl.params, start, strict=True):
        torch.testing.assert_close(p.detach(), weight - 0.1 * p.grad, rtol=1e-13, atol=1e-13)


def test_what_has_been_climbed_is_not_evaluated():
    """Between a climb and its step, `eval` shows the weights before it; the step is as if nothing had been."""

    def looking(bowl: Bowl, optimizer: Any) -> None:
        start = bowl.weights()
        bowl.differentiate()
        optimizer.ascend()
        uphill = bowl.weights()
        for _ in range(2):
            optimizer.eval()
            require_close(bowl.weights(), start, 1e-14)
        with pytest.raises(RuntimeError, match=r"call train\(\) before ascend\(\)"):
            optimizer.ascend()
        with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
            optimizer.step()
        optimizer.train()
        require_close(bowl.weights(), uphill, 1e-14)
        bowl.differentiate()
        optimizer.step()
        after = bowl.weights()
        optimizer.eval()  # nothing has been climbed since
        assert all(map(torch.equal, bowl.weights(), after))
        optimizer.train()

    _, found = trained(lambda params: SAM(params, lr=0.05, momentum=0.9), 5, looking)
    _, expected = trained(lambda params: SAM(params, lr=0.05, momentum=0.9), 5, climbing_step)
    require_same(found, expected)


def require_close(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= limit * float(other.norm())


# -- schedule-free -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ScheduleFreeSGD, ScheduleFreeAdamW], ids=lambda cls: cls.__name__)
def test_the_mean_of_a_schedule_free_method_can_be_shown_and_put_away(cls):
    hypers = {"lr": 0.1, "warmup": 5, "weight_decay": 0.1}
    ours, found = trained(lambda params: cls(params, **hypers), 40, plain_step)
    theirs, expected = trained(lambda params: REFERENCES[cls.__name__](params, **hypers), 40, plain_step)
    require_same(found, expected)
    params = ours.param_groups[0]["params"]
    means = [theirs.mean[p] for p in theirs.param_groups[0]["params"]]
    ours.eval()
    for p, mean, training in zip(params, means, found[-1], strict=True):
        torch.testing.assert_close(p.detach(), mean, rtol=1e-13, atol=1e-13)
        assert not torch.allclose(p, training, rtol=1e-3)
    ours.train()
    for p, training in zip(params, found[-1], strict=True):
        torch.testing.assert_close(p.detach(), training, rtol=1e-13, atol=1e-13)


SHOWING = {
    "ASGD": lambda: partial(ASGD, t0=0),
    "ScheduleFreeSGD": lambda: ScheduleFreeSGD,
    **{name: partial(optforge.load, f"SGD |> {name}") for name in ("Averaged", "GPA", "ScheduleFree")},
}


@pytest.mark.parametrize("name", SHOWING)
def test_the_mean_of_weights_that_have_not_stepped_is_the_weight(name):
    """Frameworks evaluate before the first step; and of parameters that never get a gradient there is no other."""
    bowl = Bowl()
    optimizer = SHOWING[name]()(bowl.params, lr=0.05)
    show, hide = ("show_average", "show_current") if name == "ASGD" else ("eval", "train")
    start = bowl.weights()
    getattr(optimizer, show)()
    require_close(bowl.weights(), start, 1e-14)
    getattr(optimizer, hide)()
    for _ in range(3):
        bowl.differentiate()
        bowl.params[0].grad = None
        optimizer.step()
    after = bowl.weights()
    getattr(optimizer, show)()
    require_close(bowl.weights()[:1], start[:1], 1e-14)
    assert not any(map(torch.equal, bowl.weights()[1:], after[1:]))
    getattr(optimizer, hide)()
    require_close(bowl.weights(), after, 1e-14)


def test_the_mean_is_that_of_all_fast_weights():
    """With a constant step size every z counts the same."""
    bowl = Bowl()
    optimizer = ScheduleFreeSGD(bowl.params, lr=0.05, beta1=0.7)
    fast = []
    for _ in range(9):
        plain_step(bowl, optimizer)
        fast.append(optimizer.state[bowl.params[0]]["z"].clone())
    optimizer.eval()
    torch.testing.assert_close(bowl.params[0].detach(), torch.stack(fast).mean(0), rtol=1e-13, atol=1e-13)


# -- Prodigy -----------------------------------------------------------------------------------------------------------


def test_prodigy_finds_the_distance_as_the_reference():
    """d grows from a millionth to about the distance to the minimum, the same for all parameters."""
    ours, found = trained(lambda params: Prodigy(params, weight_decay=1e-3), 120, plain_step)
    _, expected = trained(lambda params: ReferenceProdigy(params, weight_decay=1e-3), 120, plain_step)
    require_same(found, expected)
    centres = Bowl().centres
    distance = max(float((w - c).abs().max()) for w, c in zip(found[0], centres, strict=True))
    estimates = {float(ours.state[p]["d"]) for p in ours.param_groups[0]["params"]}
    assert len(estimates) == 1 and 0.01 * distance < estimates.pop() <= distance
    assert spread(found[-1], centres) < 0.1 * spread(found[0], centres)


def test_prodigys_distance_is_one_for_groups_of_any_lr():
    """Each of them comes near its minimum, also the one whose lr is lower."""
    slow, fast = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = Prodigy([{"params": [slow]}, {"params": [fast], "lr": 1.1}])
    for _ in range(60):
        for p in (slow, fast):
            p.grad = p.detach().clone()
        optimizer.step()
    assert torch.equal(optimizer.state[slow]["d"], optimizer.state[fast]["d"])
    assert all(p.abs().max() < 0.1 for p in (slow, fast))


def spread(weights: list[Tensor], centres: list[Tensor]) -> float:
    return sum(float((w - c).square().sum()) for w, c in zip(weights, centres, strict=True))


AVERAGED = """
optimizer Averaged:
    hyper lr = 0.1 where lr >= 0

    on eval():
        trained = weight
        weight <- middle

    on train():
        weight <- trained

    for tensor:
        z      = weight - lr * grad
        middle = prev(middle, weight) + (z - prev(middle, weight)) / (t + 1)
        weight <- z
"""


def test_the_mode_that_there_is_is_entered_by_doing_nothing() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optforge.compile_source(AVERAGED).Averaged([p])
    optimizer.train()  # nothing has been shown yet
    p.grad = torch.ones(2)
    optimizer.step()
    trained = p.detach().clone()
    for _ in range(2):
        optimizer.eval()
        torch.testing.assert_close(p.detach(), torch.tensor([0.95, -2.05]))
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        optimizer.step()
    for _ in range(2):
        optimizer.train()
        assert torch.equal(p, trained)
    optimizer.step()
