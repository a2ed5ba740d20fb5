"""What torch ships as well must step as torch does: AdamW, SGD with all its flags, and Muon."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.optim import _muon

from optforge.generated import SGD, AdamW, Muon, MuonTorch
from optforge.runtime import iterate_in
from tests.runtime.linalg.accumulators import ONE_ROUNDING, Summing
from tests.support.trials import run, worst_error

TOLERANCE = 1e-10
UNIT = 2.0**-8  # of bfloat16: the distance of neighbours, relative to their size

SGD_FLAGS = [
    {"momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov}
    for momentum, dampening, decay, nesterov in product((0.0, 0.9), (0.0, 0.4), (0.0, 0.2), (False, True))
    if not nesterov or (momentum > 0 and dampening == 0)
]
MUON_FLAGS = [
    {"nesterov": nesterov, "weight_decay": decay, "steps": steps}
    for nesterov, decay, steps in ((True, 0.1, 5), (False, 0.1, 5), (True, 0.0, 3))
]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta1, beta2, eps", [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3), (0.0, 0.95, 1e-8)])
def test_adamw_is_torchs(beta1, beta2, eps, weight_decay):
    def torchs(model):
        return torch.optim.AdamW(model.parameters(), 3e-3, (beta1, beta2), eps, weight_decay)

    def ours(model):
        return AdamW(model, lr=3e-3, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    assert worst_error(run(ours).history, run(torchs).history) <= TOLERANCE


@pytest.mark.parametrize("flags", SGD_FLAGS, ids=str)
def test_sgd_is_torchs(flags):
    def torchs(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, **flags)

    assert worst_error(run(lambda model: SGD(model, lr=0.1, **flags)).history, run(torchs).history) <= TOLERANCE


# -- Muon: torch takes 2-D parameters only, and iterates in bfloat16 on every machine ----------------------------------


def two_dimensional(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim == 2]


def torchs_muon(params, nesterov, weight_decay, steps, momentum=0.95):
    return torch.optim.Muon(
        params, lr=0.02, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, ns_steps=steps
    )


def iterate_in_own_dtype(grad, ns_coefficients, ns_steps, eps):
    """What torch's function says, in the dtype of the gradient."""
    a, b, c = ns_coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x.T if grad.size(0) > grad.size(1) else x


@pytest.mark.parametrize("flags", MUON_FLAGS, ids=str)
def test_muon_is_torchs_but_for_the_dtype_of_its_iteration(flags, monkeypatch):
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", iterate_in_own_dtype)
    expected = run(lambda model: torchs_muon(two_dimensional(model), **flags))
    found = run(lambda model: Muon(two_dimensional(model), lr=0.02, **flags))
    assert worst_error(found.history, expected.history) <= TOLERANCE


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_torch_has_torchs_defaults_and_factors(adjust, nesterov, monkeypatch):
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", iterate_in_own_dtype)
    chosen = {} if adjust is None else {"adjust": adjust}
    expected = run(lambda model: torch.optim.Muon(two_dimensional(model), nesterov=nesterov, adjust_lr_fn=adjust))
    found = run(lambda model: MuonTorch(two_dimensional(model), nesterov=nesterov, **chosen))
    assert worst_error(found.history, expected.history) <= TOLERANCE


def test_muon_torch_scales_up_what_torch_leaves_small(monkeypatch):
    """The one difference: torch divides by at least eps, so that a tiny momentum gives a short step."""
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", iterate_in_own_dtype)
    generator = torch.Generator().manual_seed(4)
    gradients = [1e-12 * torch.randn((4, 6), generator=generator, dtype=torch.float64) for _ in range(3)]
    (*_, short) = muon_steps(torch.optim.Muon, (4, 6), gradients)
    (*_, whole) = muon_steps(MuonTorch, (4, 6), gradients)
    assert float(short.norm()) < 0.5 * float(whole.norm())


def muon_steps(make, shape, gradients):
    """The changes of one weight of float64, step by step."""
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = make([p])
    steps = []
    for grad in gradients:
        before = p.detach().clone()
        p.grad = grad
        optimizer.step()
        steps.append(p.detach() - before)
    return steps


@pytest.mark.parametrize("shape", [(1, 16), (4, 1), (8, 8), (4, 16), (64, 16)], ids=str)
def test_muon_is_torchs_in_bfloat16_from_where_both_round_alike(shape):
    """Signs times a power of two, of 4^n elements, have a norm that bfloat16 holds: what follows is the same bits.

    Torch multiplies single matrices and we batches, which processors sum in different orders; here each product is
    rounded once.
    """
    generator = torch.Generator().manual_seed(2)
    signs = [torch.randn(shape, generator=generator, dtype=torch.float64).sign() * 2.0**k for k in range(-5, 5)]
    flags = {"nesterov": False, "weight_decay": 0.0, "steps": 5}
    with iterate_in(torch.bfloat16), Summing(ONE_ROUNDING):
        expected = muon_steps(lambda params: torchs_muon(params, **flags, momentum=0.0), shape, signs)
        found = muon_steps(lambda params: Muon(params, lr=0.02, beta=0.0, **flags), shape, signs)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= TOLERANCE


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (24, 60)], ids=str)
def test_muon_is_torchs_in_bfloat16_up_to_its_rounding(shape):
    """Torch divides by a rounded norm, so all that follows is rounded differently.

    Each step rounds three matrices (Gram, polynomial, product) by at most half a unit in either run, and on the
    singular values of these shapes the iteration does not amplify errors: 5 · 3 units in all.
    """
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(20)]
    flags = {"nesterov": True, "weight_decay": 0.0, "steps": 5}
    expected = muon_steps(lambda params: torchs_muon(params, **flags), shape, gradients)
    with iterate_in(torch.bfloat16):
        found = muon_steps(lambda params: Muon(params, lr=0.02, **flags), shape, gradients)
    exact = muon_steps(lambda params: Muon(params, lr=0.02, **flags), shape, gradients)
    for ours, theirs, unrounded in zip(found, expected, exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= 5 * 3 * UNIT
        assert 0 < float((ours - unrounded).norm() / unrounded.norm()) <= 5 * 3 * UNIT
