"""Estimates of the curvature: their expectations, what they leave alone, and a training loop of a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optforge import GaussNewtonBartlett, Hutchinson
from optforge.generated import AdamW, SophiaG, SophiaGOfficial, SophiaH
from tests.support.classes import is_untouched

DRAWS = 4000
DEVIATIONS = 5.0  # with 30 elements, five standard errors are exceeded once in 60,000 runs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


class Recorder(torch.optim.SGD):
    """Keeps the estimates that its event finds where gradients are."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.seen: list[dict[Tensor, Tensor | None]] = []

    def curvature(self) -> None:
        self.seen.append({p: p.grad for group in self.param_groups for p in group["params"]})


class BatchRecorder(Recorder):
    """The same with Sophia-G's argument, by which it multiplies."""

    def curvature(self, batch_size: float) -> None:
        squares = {p: batch_size * p.grad**2 for group in self.param_groups for p in group["params"]}
        self.seen.append(squares)


def require_expectation(draws: Iterator[Tensor], expected: Tensor) -> None:
    """The mean of the draws is the expectation, up to a few of its standard errors, which are small beside it."""
    samples = torch.stack(list(draws))
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= DEVIATIONS * error).all()
    assert float(error.norm()) < 0.05 * float(expected.norm())


def test_hutchinson_expects_the_diagonal_of_the_hessian() -> None:
    factor = randn(6, 6)
    hessian = factor @ factor.T + torch.diag(torch.arange(6.0, dtype=torch.float64))
    p = nn.Parameter(randn(6, seed=1))
    optimizer = Recorder([p])
    curvature = Hutchinson(optimizer, every=1, generator=seeded())
    for _ in range(DRAWS):
        curvature(lambda: 0.5 * p @ hessian @ p + p.sum())
    require_expectation((seen[p] for seen in optimizer.seen), hessian.diagonal())


def test_hutchinson_of_a_diagonal_hessian_is_exact_for_signs_of_one_element() -> None:
    """u (H u) of one weight is u^2 H: divided by the u^2 that the same generator gives, it is the second derivative."""
    p = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimizer = Recorder([p])
    Hutchinson(optimizer, generator=seeded(3))(lambda: p.pow(4).sum())
    u = torch.randn(1, generator=seeded(3), dtype=torch.float64)
    torch.testing.assert_close(optimizer.seen[0][p], u**2 * 12 * p.detach() ** 2)


def gauss_newton_diagonal(weight: Tensor, x: Tensor) -> Tensor:
    """Of softmax regression: the mean over the batch of q (1 - q) for the class, times x^2 for the input."""
    q = (x @ weight.T).softmax(-1)
    return (q * (1 - q)).T @ x**2 / len(x)


def test_sampled_labels_expect_the_diagonal_of_the_gauss_newton_matrix() -> None:
    model, x = nn.Linear(5, 3, bias=False).double(), randn(8, 5)
    with torch.no_grad():
        model.weight.copy_(randn(3, 5, seed=1))
    optimizer = BatchRecorder(model.parameters())
    curvature = GaussNewtonBartlett(model, optimizer, every=1, generator=seeded())
    for _ in range(DRAWS):
        curvature(x)
    expected = gauss_newton_diagonal(model.weight.detach(), x)
    require_expectation((seen[model.weight] for seen in optimizer.seen), expected)


def test_both_forms_of_sophia_g_average_the_same_curvature() -> None:
    """The paper's multiplies by the size of the batch when it averages, the published code when it divides."""
    x, states = randn(2, 4, 5), []
    for cls in (SophiaG, SophiaGOfficial):
        torch.manual_seed(0)
        model = nn.Linear(5, 3).double()
        optimizer = cls(model.parameters())
        GaussNewtonBartlett(model, optimizer, generator=seeded())(x)
        states.append(optimizer.state[model.weight]["h"])
    torch.testing.assert_close(states[0], 8 * states[1])


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_the_gradients_of_the_training_step_stay(cls) -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), randn(6, 4)
    optimizer = cls(model.parameters())
    cross_entropy(model(x), torch.arange(6) % 3).backward()
    model[0].bias.grad = None
    model[2].bias.requires_grad_(False)
    before = [(p, p.grad, None if p.grad is None else p.grad.clone(), p.detach().clone()) for p in model.parameters()]
    estimate(cls, model, optimizer)(x)
    for p, grad, values, weight in before:
        assert p.grad is grad and (grad is None or torch.equal(grad, values)) and torch.equal(p, weight)
    assert optimizer.state[model[0].bias]["h"].any() and is_untouched(optimizer, model[2].bias)


def estimate(cls: type, model: nn.Module, optimizer: Any) -> Any:
    """Something to call with the inputs, for either form of Sophia."""
    if cls is SophiaG:
        return GaussNewtonBartlett(model, optimizer, every=3, generator=seeded())
    hutchinson = Hutchinson(optimizer, every=3, generator=seeded())
    return lambda x: hutchinson(lambda: cross_entropy(model(x), torch.arange(len(x)) % 3))


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_equal_generators_give_equal_trainings(cls) -> None:
    finals = []
    for noise in (1, 2):  # torch's own generator is not used
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        optimizer = cls(model.parameters(), lr=1e-2)
        curvature = estimate(cls, model, optimizer)
        torch.manual_seed(noise)
        for step in range(7):
            optimizer.zero_grad()
            cross_entropy(model(randn(6, 4, seed=step)), torch.arange(6) % 3).backward()
            curvature(randn(6, 4, seed=step))
            optimizer.step()
        assert optimizer.state[model[0].weight]["curvature_step"] == 3  # calls 1, 4 and 7
        finals.append(model[0].weight.detach().clone())
    assert torch.equal(*finals)


def test_a_resumed_estimator_keeps_its_rhythm() -> None:
    p = nn.Parameter(randn(3))
    optimizer = Recorder([p])
    curvature, resumed = Hutchinson(optimizer, every=3), Hutchinson(optimizer, every=3)
    for _ in range(2):
        curvature(lambda: p.pow(2).sum())
    resumed.load_state_dict(curvature.state_dict())
    fired = []
    for _ in range(4):
        resumed(lambda: p.pow(2).sum())
        fired.append(len(optimizer.seen))
    assert fired == [1, 2, 2, 2]


def test_a_loss_without_curvature_gives_zeros_and_one_without_the_parameter_nothing() -> None:
    p, q, unused = (nn.Parameter(randn(3, seed=i)) for i in range(3))
    optimizer = Recorder([p, q, unused])
    Hutchinson(optimizer)(lambda: p.sum() + q.pow(2).sum())
    assert not optimizer.seen[0][p].any() and optimizer.seen[0][q].all() and optimizer.seen[0][unused] is None
    Hutchinson(optimizer)(lambda: p.sum())
    assert not optimizer.seen[1][p].any() and optimizer.seen[1][q] is None


def test_an_optimizer_without_the_event_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="AdamW has no event `curvature`"):
        GaussNewtonBartlett(model, AdamW(model))
    with pytest.raises(ValueError, match="every=0"):
        Hutchinson(SophiaH(model), every=0)


def test_a_training_loop_needs_one_line_more() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(64, 4)
    y = (x @ torch.randn(4, 3)).argmax(-1)
    first = cross_entropy(model(x), y).item()
    optimizer = SophiaG(model, lr=1e-2, weight_decay=0)
    curvature = GaussNewtonBartlett(model, optimizer, every=10, generator=seeded())
    for _ in range(150):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        curvature(x)
        optimizer.step()
    assert cross_entropy(model(x), y).item() < 0.2 * first
