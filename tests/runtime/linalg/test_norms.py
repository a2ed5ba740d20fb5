"""Norms in float32 against float64: errors of rounding alone, whatever the shape and the way to compute them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.compiler.load import compile_source
from optforge.runtime import norm
from optforge.runtime.linalg.orthogonal import _frobenius_norm

LIMIT = 1e-6
SHAPES = ((768, 768), (3072, 768), (768, 3072), (4, 768, 768), (2, 3, 64, 48), (3072 * 768, 1), (1, 768), (768, 1))
DIMS = (-1, -2, (-2, -1), (-1,), (-2,))

SPEC = """\
optimizer Lengths:
    for matrix:
        a = prev(a) + norm(grad)
        c = prev(c) + norm(grad, per=col)
        r = prev(r) + norm(grad, per=row)
        weight <- weight - 0.001 * grad / (a + c + r)
    for rest:
        a = prev(a) + norm(grad)
        weight <- weight - 0.001 * grad / a
"""


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def exact(x: Tensor, dim: Any) -> Tensor:
    return x.double().square().sum(dim=dim, keepdim=True).sqrt()


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape and found.dtype == torch.float32
    return float(((found.double() - expected) / expected).abs().max())


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_accurate(shape: tuple[int, ...], dim: Any) -> None:
    x = values(*shape)
    assert worst(norm(x, dim), exact(x, dim)) < LIMIT


@pytest.mark.parametrize("shape", SHAPES)
def test_what_orthogonalize_divides_by_is_accurate(shape: tuple[int, ...]) -> None:
    x = values(*shape)
    assert worst(_frobenius_norm(x, x.dtype), exact(x, (-2, -1))) < LIMIT


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("count", [1, 3])
def test_norms_of_a_step_are_accurate(backend: str, count: int) -> None:
    params = [nn.Parameter(torch.zeros(3072, 768)) for _ in range(count)] + [nn.Parameter(torch.zeros(1_000_000))]
    optimizer = compile_source(SPEC).Lengths(params, backend=backend)
    for seed, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    for p in params:
        state, grad = optimizer.state[p], p.grad.reshape(len(p), -1)
        for name, dim in {"a": (-2, -1), "c": -2, "r": -1}.items():
            if name in state:
                assert worst(state[name].reshape(exact(grad, dim).shape), exact(grad, dim)) < LIMIT, (p.shape, name)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("element", [math.inf, -math.inf, math.nan, 1e25, -1e25])
def test_what_is_infinite_or_has_an_infinite_square(element: float, dim: Any) -> None:
    """A norm is infinite where the sum of squares is, of a tensor of one element as well; NaN only where one is."""
    for shape in ((3, 4), (2, 3, 4), (5, 1), (1, 1)):
        x = values(*shape)
        x.view(-1)[0] = element
        wanted = x.square().sum(dim=dim, keepdim=True).sqrt()
        torch.testing.assert_close(norm(x, dim), wanted, equal_nan=True)


@pytest.mark.parametrize("dim", DIMS)
def test_a_norm_of_zero_has_a_derivative(dim: Any) -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    norm(x, dim).sum().backward()
    assert torch.equal(x.grad, torch.zeros(3, 4))  # type: ignore[arg-type]
