"""Random streams: the same bits in the interpreter and in torch, however parameters are batched, cut and compiled."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optforge import runtime
from optforge.compiler.driver import check_source
from optforge.compiler.ir.meanings import draws
from optforge.compiler.oracle.interpreter import OracleParameter, fire_event, run_step
from optforge.dsl.source import Source
from tests.support.streams import EVERYWHERE, everywhere

DRAWS = ("uniform", "normal", "sign_noise")
ELEMENTS = 1 << 18


def noise(count: int = ELEMENTS) -> torch.Tensor:
    """Numbers that are merely different, over the whole range, and the ends of it."""
    found = torch.arange(count, dtype=torch.int64) * 0x9E3779B1
    return torch.cat([found, torch.tensor([0, -1, 2**31 - 1, -(2**31)])]).to(torch.int32)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_what_they_mean_to_the_bit(name: str, dtype: torch.dtype) -> None:
    given = noise()
    before = given.clone()
    for key in (0, 1, 30, 123456):
        found = getattr(runtime, name)(given, key, dtype)
        expected = getattr(draws, f"reference_{name}")(given.numpy().astype(np.uint32), float(key))
        assert found.dtype == dtype and torch.equal(given, before)
        np.testing.assert_array_equal(found.double().numpy(), expected)


def test_all_quantiles_of_the_table_are_far_from_where_they_are_rounded() -> None:
    """So no library's logarithm, right to some ten places, can change one; and each is the one of the other table."""
    shares = [(1 + i % 128 / 128) * 2.0 ** (i // 128 - 25) for i in range(24 * 128 + 1)]
    exact = np.array([-NormalDist().inv_cdf(share) * 2**20 for share in shares])
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-6
    np.testing.assert_array_equal(draws.quantiles(), np.round(exact))


def test_normal_numbers_are_normal() -> None:
    x = runtime.normal(noise(1 << 20), 0, torch.float64).numpy()
    for moment, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt(math.prod(range(2 * moment - 1, 0, -2)) / len(x))
        assert abs((x**moment).mean() - expected) < 5 * spread, moment
    ordered = np.sort(x)
    cumulated = np.array([NormalDist().cdf(each) for each in ordered[::64]])
    assert np.abs(cumulated - np.arange(len(x))[::64] / len(x)).max() < 1.95 / math.sqrt(len(x))  # Kolmogorov, 0.1 %
    assert 4.5 < np.abs(x).max() <= 5.42


def test_uniform_numbers_and_signs_are_even() -> None:
    x, signs = (getattr(runtime, name)(noise(1 << 20), 0, torch.float64).numpy() for name in ("uniform", "sign_noise"))
    counts = np.histogram(x, 1024, (0, 1))[0]
    assert abs(((counts - len(x) / 1024) ** 2).sum() / (len(x) / 1024) - 1023) < 5 * math.sqrt(2 * 1023)
    assert x.min() > 0 and x.max() < 1 and set(np.unique(signs)) == {-1, 1} and abs(signs.mean()) < 5 / 1024


def test_streams_have_nothing_in_common() -> None:
    """Neither at the same place nor when one is moved beside the other, for neighbouring keys."""
    given = noise(1 << 16)
    found = [runtime.normal(given, key, torch.float64) for key in range(6)]
    for i, one in enumerate(found):
        for other in found[:i]:
            around = [(one * other.roll(shift)).mean() for shift in range(-2, 3)]
            assert max(map(abs, around)) < 5 / math.sqrt(len(given))


# -- optimizers --------------------------------------------------------------------------------------------------------


def network() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (3, 4), (4, 3), (3, 2, 2), (5,), (), (6,))
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": params[:3], "rule": "matrix"},
        {"params": params[3:4], "rule": "conv"},
        {"params": params[4:], "rule": "vector"},
    ]


def oracles(params: list[nn.Parameter], seed: int = 0) -> list[OracleParameter]:
    program = check_source(Source("mine.opt", EVERYWHERE)).require()
    matrix, rest = program.declarations[0].rules  # type: ignore[union-attr]
    rules = [matrix] * 4 + [rest] * 3
    return [
        OracleParameter(p.detach().numpy().copy(), rule, number, seed)
        for number, (p, rule) in enumerate(zip(params, rules, strict=True))
    ]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    """The third parameter misses the second step, after which it counts its own."""
    for i, p in enumerate(params):
        p.grad = None if (i, step) == (2, 2) else torch.full_like(p, 0.01 * (i + step))


COMPILED = pytest.param({"backend": "compile"}, marks=pytest.mark.wide)


@pytest.mark.parametrize("options", [{}, {"seed": 5}, {"capturable": True}, COMPILED], ids=str)
def test_optimizers_draw_what_the_interpreter_draws(options: dict[str, Any]) -> None:
    if options.get("backend") == "compile":
        pytest.importorskip("torch._inductor")
    params = network()
    optimizer = everywhere()(groups(params), **options)
    expected = oracles(params, options.get("seed", 0))
    for step in range(1, 4):
        set_gradients(params, step)
        grads = [None if p.grad is None else p.grad.numpy() for p in params]
        hypers = [{"lr": 0.5}] * len(params)
        if step == 2:
            optimizer.shake()
            fire_event(expected, "shake", grads, hypers, {})
        optimizer.step()
        run_step(expected, grads, hypers)
        for p, each in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), each.value, rtol=0, atol=1e-14)


def test_a_run_that_goes_on_from_a_checkpoint_draws_what_it_would_have_drawn() -> None:
    params = network()
    optimizer = everywhere()(groups(params), seed=3)
    for step in (1, 2):
        set_gradients(params, step)
        optimizer.step()
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = everywhere()(groups(others))
    other.load_state_dict(optimizer.state_dict())
    for step in (3, 4):
        for each, stepped in ((params, optimizer), (others, other)):
            set_gradients(each, step)
            stepped.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
