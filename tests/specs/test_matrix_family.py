"""How the matrix methods are related: which are the same in a special case, and what each of them promises.

Their agreement with references is tested elsewhere; here stand identities between shipped optimizers that their
papers, or their docstrings, state.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optforge
from optforge import generated
from tests.references.normuon import NorMuon
from tests.support.trials import reference_groups, run, worst_error

MATRICES = ("blocks.0.weight", "blocks.1.weight", "blocks.2.weight", "blocks.3.weight", "blocks.4.weight")


def histories(cls: Any, **hypers: Any) -> list[dict[str, Tensor]]:
    """The hidden matrices of the test network before and after each of ten steps."""
    history = run(lambda model: cls(model, **hypers), steps=10).history
    return [{name: weights[name] for name in MATRICES} for weights in history]


# In all of these the arithmetic differs, so that an error of a few roundings is left.
SAME = [
    pytest.param("MuonHeavyBall", {}, "Muon", {}, id="a sum has the direction of an average"),
    pytest.param("MuonHeavyBall", {"nesterov": False}, "Muon", {"nesterov": False}, id="also without Nesterov"),
    pytest.param("PRISM", {"gamma": 0.0}, "Muon", {}, id="PRISM that ignores its errors"),
    pytest.param("ContraMuon", {"contra": 0.0}, "MuonExact", {}, id="nothing taken away"),
    pytest.param("RadialBrakeMuon", {"brake": 0.0}, "Muon", {}, id="no brake"),
    pytest.param("UWFloorMuon", {"least": 0.0}, "Muon", {}, id="no floor"),
    pytest.param("MuonExact", {"steps": 40}, "MuonSVD", {}, id="the exact quintic converges"),
    pytest.param("NAMODH", {"c": 1.0}, "MuonH", {"lr": 9e-3, "nesterov": False}, id="equal columns on the sphere"),
    pytest.param("SoftMuon", {"exponent": 1e-13}, "MuonSVD", {}, id="a power that is nearly zero"),
]


@pytest.mark.parametrize("name, hypers, other, others", SAME)
def test_special_cases_are_the_same(name, hypers, other, others):
    found = histories(getattr(generated, name), **hypers)
    assert worst_error(found, histories(getattr(generated, other), **others)) <= 1e-10


def test_normuon_as_a_difference_from_muon_is_normuon():
    found = run(lambda model: generated.NorMuonFromMuon(model)).history
    expected = run(lambda model: NorMuon(reference_groups(model))).history
    assert worst_error(found, expected) <= 1e-10


# -- the iterations ----------------------------------------------------------------------------------------------------

# Where the singular values between 1e-2 and 1, relative to the Frobenius norm, come to lie.
RANGES = {
    "MuonSVD": (1.0, 1.0),
    "MuonExact": (1.0, 1.0),
    "MuonDeepSeek": (1.0, 1.0005),
    "MuonYouJiacheng": (0.978, 1.032),
    "MuonPolarExpress": (0.870, 1.124),
    "MuonCANS": (0.884, 1.120),
    "MuonCubic": (0.774, 1.300),
    "Muon": (0.682, 1.134),
}


def direction(name: str, gradient: Tensor, **hypers: Any) -> Tensor:
    """The first step per unit of lr of a weight of zeros, without the factor of tall matrices."""
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient
    getattr(generated, name)([weight], lr=1.0, **hypers).step()
    return -weight.detach() / max(1, gradient.size(0) / gradient.size(1)) ** 0.5


@pytest.mark.parametrize("name", RANGES)
def test_singular_values_come_to_lie_where_the_literature_says(name):
    low, high = RANGES[name]
    values = [
        direction(name, torch.diag(torch.tensor([1.0, second], dtype=torch.float64))).diagonal()
        for second in torch.logspace(-2, 0, 201, dtype=torch.float64)
    ]
    found = torch.cat(values)
    half = 5e-4 + 1e-9  # the bounds are given to three digits
    assert low - half <= float(found.min()) <= low + 0.02
    assert high - 0.02 <= float(found.max()) <= high + half


@pytest.mark.parametrize("rows, cols", [(4, 7), (7, 4), (5, 5)])
def test_turbo_muon_comes_near_the_polar_factor(rows, cols):
    gradient = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, exact = direction("TurboMuon", gradient), direction("MuonSVD", gradient)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) >= 0.94
    assert float(values.max()) <= 1.0501
    cosine = (found * exact).sum() / (found.norm() * exact.norm())
    assert 0.99 < float(cosine) < 0.9999  # scaled rows have another polar factor


def test_aurora_makes_the_longer_side_equal():
    gradient = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient[0] *= 10

    def spread(update: Tensor) -> float:
        norms = update.norm(dim=1)
        return float(norms.max() / norms.min())

    assert spread(direction("Aurora", gradient)) < 1.25 < 3 < spread(direction("MuonExact", gradient))
    torch.testing.assert_close(direction("Aurora", gradient.T), direction("Aurora", gradient).T, rtol=0, atol=1e-10)
    square = gradient[:3]
    torch.testing.assert_close(direction("Aurora", square), direction("MuonExact", square), rtol=0, atol=1e-10)


# -- spheres, floors and brakes ----------------------------------------------------------------------------------------

ON_A_SPHERE = ("MuonH", "AdamH", "NorMuonH", "NAMOH", "NAMODH", "AuroraH")


@pytest.mark.parametrize("name", ON_A_SPHERE)
def test_norms_stay_and_weights_do_not(name):
    history = histories(getattr(generated, name))
    for key in MATRICES:
        norms = torch.stack([weights[key].norm() for weights in history])
        assert torch.allclose(norms, norms[0], rtol=1e-14, atol=0)
        assert float((history[-1][key] - history[0][key]).norm()) > 1e-2 * float(norms[0])


def test_muon_sphere_puts_the_spectral_norm():
    history = histories(generated.MuonSphere, lr=0.0)
    for key in MATRICES:
        rows, cols = history[0][key].shape
        assert float(torch.linalg.matrix_norm(history[1][key], ord=2)) == pytest.approx((rows / cols) ** 0.5, rel=1e-13)


@pytest.mark.parametrize("least", [0.35, 2.0])
def test_floored_steps_are_long_enough(least):
    history = histories(generated.UWFloorMuon, lr=1.0, least=least)
    lengths = [
        float((history[1][key] - history[0][key]).norm() / history[0][key].norm()) for key in MATRICES
    ]  # the lr of the first step is the given one
    assert min(lengths) >= least * (1 - 1e-12)
    assert least < 1 or max(lengths) == pytest.approx(least, rel=1e-12)


def test_a_whole_brake_leaves_no_step_outward():
    history = histories(generated.RadialBrakeMuon, brake=1.0)
    outward = [
        float(((after[key] - before[key]) * before[key]).sum() / before[key].norm())
        for before, after in pairwise(history)
        for key in MATRICES
    ]
    assert max(outward) <= 1e-15
    assert min(outward) < -1e-3  # inward it goes as far as before


# -- the functions of the prelude --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, cols", [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1)])
def test_the_spectral_norm_and_scaling_to_a_norm(tmp_path: Path, rows: int, cols: int):
    path = tmp_path / "scaled.opt"
    path.write_text("optimizer Scaled:\n    for matrix:\n        weight <- scale_to(grad, spectral_norm(weight))\n")
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(rows, cols, generator=generator, dtype=torch.float64))
    weight.grad = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    expected = weight.grad / weight.grad.norm() * torch.linalg.matrix_norm(weight.detach(), ord=2)
    optforge.load(path)([weight]).step()
    assert torch.allclose(weight.detach(), expected, rtol=1e-14, atol=0)
