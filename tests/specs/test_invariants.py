"""What the papers promise of a method, tested on the generated classes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import optforge
from optforge.generated import NAMO, NAMOD, UBA, Muon, Nora, NorMuon
from tests.references.namo import step_size_of_paper
from tests.references.newton_schulz import newton_schulz
from tests.support.trials import run, worst_error

SHAPES = [(1, 5), (5, 5), (9, 4), (4, 9)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def randn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps_of(cls, weight: Tensor, gradients: list[Tensor], **hypers):
    """For each gradient: the weight before, the weight after, and the states."""
    p = nn.Parameter(weight.clone())
    optimizer = cls([p], **hypers)
    for gradient in gradients:
        before = p.detach().clone()
        p.grad = gradient
        optimizer.step()
        yield before, p.detach().clone(), optimizer.state[p]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# -- NAMO and NAMO-D ---------------------------------------------------------------------------------------------------


@every_shape
def test_namo_starts_with_a_step_size_of_one(shape):
    grad = 1e3 * randn(shape, 1)
    ((before, after, _),) = steps_of(NAMO, randn(shape, 0), [grad], lr=0.1, eps=1e-30, weight_decay=0.0)
    assert relative(before - after, 0.1 * newton_schulz(grad)) <= 1e-12


@every_shape
def test_namo_has_the_papers_step_size(shape):
    """With an eps large enough to show where it is added."""
    gradients = [10.0 ** (t % 3) * randn(shape, t) for t in range(20)]
    hypers = {"mu1": 0.9, "mu2": 0.97, "eps": 0.5}
    trajectory = steps_of(NAMO, randn(shape, 99), gradients, lr=0.1, weight_decay=0.2, **hypers)
    for t, (before, after, state) in enumerate(trajectory, start=1):
        alpha = step_size_of_paper(state["m"], state["v"].squeeze(), t, **hypers)
        assert relative(before - after, 0.1 * alpha * (newton_schulz(state["m"]) + 0.2 * before)) <= 1e-10


def step_sizes(gradients: list[Tensor], **hypers) -> list[float]:
    """alpha of every step, read off the steps."""
    trajectory = steps_of(NAMO, randn(tuple(gradients[0].shape), 5), gradients, lr=1.0, weight_decay=0.0, **hypers)
    return [float((before - after).norm() / newton_schulz(state["m"]).norm()) for before, after, state in trajectory]


@pytest.mark.parametrize("mu1, mu2", [(0.95, 0.99), (0.5, 0.9), (0.9, 0.9)])
def test_namo_never_steps_further_than_the_bound(mu1, mu2):
    bound = math.sqrt((1 - mu1) / (1 - mu2))
    random = [10.0 ** (3 * math.sin(7 * t)) * randn((4, 3), t) for t in range(60)]
    # Gradients of one direction that grow by mu2 / mu1 are those of the largest step size (Cauchy-Schwarz).
    worst = [(mu2 / mu1) ** t * randn((4, 3), 0) for t in range(int(-7 / math.log(mu2)))]
    limit = (1 - mu1) / math.sqrt((1 - mu2) * (1 - mu1**2 / mu2))
    assert max(step_sizes(random, mu1=mu1, mu2=mu2)) <= bound * (1 + 1e-12)
    assert limit * 0.999 <= max(step_sizes(worst, mu1=mu1, mu2=mu2)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("cls", [NAMO, NAMOD, Muon, Nora, NorMuon], ids=lambda c: c.__name__)
def test_steps_do_not_depend_on_the_size_of_gradients(cls):
    tiny_eps = {"eps": 1e-30} if cls in (NAMO, NAMOD) else {}
    gradients = [randn((4, 6), t) for t in range(5)]
    larger = [1000 * gradient for gradient in gradients]
    plain, scaled = (steps_of(cls, randn((4, 6), 9), each, **tiny_eps) for each in (gradients, larger))
    for (before, after, _), (_, other, _) in zip(plain, scaled, strict=True):
        assert float((other - after).norm() / (after - before).norm()) <= 1e-11


@every_shape
def test_namo_d_with_c_one_has_one_step_size(shape):
    gradients = [randn(shape, t) for t in range(5)]
    mu1, mu2 = 0.9, 0.95
    trajectory = steps_of(NAMOD, randn(shape, 9), gradients, lr=1.0, mu1=mu1, mu2=mu2, c=1.0, weight_decay=0.0)
    m, v = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[1], dtype=torch.float64)
    for t, (before, after, _) in enumerate(trajectory, start=1):
        m = mu1 * m + (1 - mu1) * gradients[t - 1]
        v = mu2 * v + (1 - mu2) * gradients[t - 1].square().sum(0)
        step_size = (m.norm(dim=0) / (1 - mu1**t) / (v / (1 - mu2**t)).sqrt()).mean()
        assert relative(before - after, step_size * newton_schulz(m)) <= 1e-7  # up to eps


def test_namo_d_follows_a_permutation_of_the_columns():
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    gradients = [randn((4, 7), t) * torch.logspace(-2, 2, 7, dtype=torch.float64) for t in range(5)]
    weight = randn((4, 7), 9)
    plain = steps_of(NAMOD, weight, gradients)
    permuted = steps_of(NAMOD, weight[:, order], [gradient[:, order] for gradient in gradients])
    for (before, after, _), (_, other, _) in zip(plain, permuted, strict=True):
        assert float((other - after[:, order]).norm() / (after - before).norm()) <= 1e-10


# -- NorMuon, Nora, Muon -----------------------------------------------------------------------------------------------


@every_shape
def test_normuon_steps_have_a_root_mean_square_of_a_fifth_of_lr(shape):
    gradients = [10.0**t * randn(shape, t) for t in range(5)]
    for before, after, _ in steps_of(NorMuon, randn(shape, 9), gradients, lr=0.3, weight_decay=0.2):
        step = after - before + 0.3 * 0.2 * before
        assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * 0.3, rel=1e-13)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] > 1], ids=str)
def test_nora_steps_are_tangent_and_rows_grow_by_the_square_of_lr(shape):
    gradients = [randn(shape, t) for t in range(5)]
    for before, after, _ in steps_of(Nora, randn(shape, 9), gradients, lr=0.3, weight_decay=0.0):
        slope = ((after - before) * before).sum(1) / before.norm(dim=1)
        growth = after.square().sum(1) - before.square().sum(1)
        assert slope.abs().max() <= 1e-12
        assert growth.tolist() == pytest.approx([0.3**2] * shape[0], rel=1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_steps_alike_with_either_form_of_momentum(nesterov):
    """The sum is 1 / (1 - beta) times the average, and orthogonalization does not see the size."""
    heavy = optforge.compile_source(
        "optimizer HeavyMuon extends Muon:\n    for matrix:\n        m = heavy_ball(grad, beta, nesterov)\n"
    ).HeavyMuon
    found = run(lambda model: heavy(model, nesterov=nesterov))
    expected = run(lambda model: Muon(model, nesterov=nesterov))
    assert worst_error(found.history, expected.history) <= 1e-10
    ratio = found.states["blocks.2.weight"]["m"] / expected.states["blocks.2.weight"]["m"]
    assert relative(ratio, torch.full_like(ratio, 1 / (1 - 0.95))) <= 1e-12


# -- UBA ---------------------------------------------------------------------------------------------------------------

# Factor at t / total = 0, 1/4, 1/2, 3/4, 1, to three places.
UBA_TABLE = {
    0.25: (1, 0.979, 0.889, 0.579, 0),
    0.5: (1, 0.959, 0.8, 0.407, 0),
    1.0: (1, 0.921, 0.667, 0.255, 0),
    2.0: (1, 0.854, 0.5, 0.146, 0),
    5.0: (1, 0.700, 0.286, 0.064, 0),
    10.0: (1, 0.538, 0.167, 0.033, 0),
}


@pytest.mark.parametrize("phi", UBA_TABLE)
def test_uba_has_the_known_values(phi):
    factors = [UBA.factor(t, total=1000, warmup=0, phi=phi) for t in (0, 250, 500, 750, 1000)]
    assert factors == pytest.approx(UBA_TABLE[phi], abs=5e-4)
    assert (factors[0], factors[-1]) == (1, 0)


def test_uba_with_phi_two_is_the_cosine():
    for t in range(101):
        cosine = (1 + math.cos(math.pi * t / 100)) / 2
        assert UBA.factor(t, total=100, warmup=0, phi=2.0) == pytest.approx(cosine, abs=1e-15)


def test_uba_falls_from_the_end_of_the_warmup_on_and_earlier_for_larger_phi():
    curves = [[UBA.factor(t, total=100, warmup=10, phi=phi) for t in range(101)] for phi in UBA_TABLE]
    for curve in curves:
        assert curve[:10] == pytest.approx([t / 10 for t in range(10)])
        assert (curve[10], curve[100]) == (1, 0)
        assert all(before > after for before, after in pairwise(curve[10:]))
    for later, earlier in pairwise(curves):
        assert all(slow > fast for slow, fast in zip(later[11:100], earlier[11:100], strict=True))
