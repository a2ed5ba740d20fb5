"""Which products of matrices `orthogonalize` asks libraries for: as many as its polynomials need, none that counts 0.

Libraries differ in what they make of a coefficient of 0, and some give a wrong result; here calls are counted, and a
library that gives NaN for every such call stands for all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optforge.runtime import iterate_in, orthogonalize
from optforge.runtime.linalg import orthogonal, symmetric
from tests.runtime.linalg.test_orthogonal import TABLES, on_singular_values
from tests.support.classes import build, class_parameters, groups, parameters, set_gradients

SUMS = {"addmm", "addmm_", "addmv", "addmv_", "addr", "addr_", "addbmm", "addbmm_", "baddbmm", "baddbmm_"}
PRODUCTS = {*SUMS, "mm", "bmm", "mv", "dot"}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

QUINTIC, CUBIC, LINEAR = (3.4445, -4.7750, 2.0315), (1.5, -0.5, 0.0), (1.25, 0.0, 0.0)
MIXED = {
    "cubic": (CUBIC,) * 3,
    "cubic in whole numbers": ((2, -1, 0),) * 3,
    "quintic, then cubic": (QUINTIC, QUINTIC, CUBIC, CUBIC),
    "cubic, then quintic": (CUBIC, QUINTIC, CUBIC, QUINTIC),
    "no cube": ((1.5, 0.0, -0.5), QUINTIC, (1.5, 0.0, -0.5)),
    "no first power": ((0.0, 1.5, 0.0), CUBIC, (0.0, 2.0, -0.5), QUINTIC, (0.0, 0.0, 0.75), (-0.0, 1.0, -0.0)),
    "linear": (LINEAR, CUBIC, LINEAR, QUINTIC),
    "nothing": ((0.0, 0.0, 0.0), CUBIC),
}


class Products(TorchDispatchMode):
    """Counts products of matrices; one with a coefficient of 0 gives NaN and is kept in `void`."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.void = 0, Counter[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        self.count += name in PRODUCTS
        if name in SUMS and 0 in (kwargs.get("alpha", 1), kwargs.get("beta", 1)):
            self.void[name] += 1
            out.fill_(math.nan)
        return out


@contextmanager
def counted() -> Iterator[Products]:
    with Products() as products:
        yield products
    assert not products.void


def cost(piece) -> int:
    """How many products a piece needs: the degrees of its polynomials say it."""
    squares = sum(c != 0 and b != c for _, b, c in piece)
    if len(piece) == 1:
        ((_, b, c),) = piece
        return squares + 2 * (b != 0 or c != 0)
    return 1 + squares + 2 * (len(piece) - 1) + (len(piece) - 1) + 1


@pytest.mark.parametrize("shape", [(2, 40, 100), (80, 32), (40, 40)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*TABLES, *MIXED])
def test_a_step_costs_the_products_of_its_degree(name, dtype, shape):
    triples = (TABLES | MIXED)[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pieces = orthogonal._pieces(shape, dtype, x.device, triples)
    with iterate_in(dtype), counted() as products:
        found = orthogonalize(x, coefficients=triples)
    assert products.count == sum(map(cost, pieces))
    if dtype == torch.float64:
        expected = on_singular_values(x, triples)
        assert (found - expected).norm() <= 1e-11 * expected.norm()


def test_the_products_of_each_degree():
    """In the standard form, then in the Gram form, whose steps after the first save the two with the long side."""
    assert [cost([step]) for step in (QUINTIC, CUBIC, LINEAR)] == [3, 2, 0]
    assert [cost([step] * 5) for step in (QUINTIC, CUBIC)] == [19, 14]
    x = torch.randn(40, 100)
    for step, standard, gram in ((QUINTIC, 15, 19), (CUBIC, 10, 14), (LINEAR, 0, 0)):
        for matrix, expected in ((x[:, :40], standard), (x, gram)):
            with iterate_in(torch.float32), counted() as products:
                orthogonalize(matrix, coefficients=[step] * 5)
            assert products.count == expected


@pytest.mark.parametrize("name", MIXED)
def test_every_form_of_every_degree_follows_the_map(name):
    """The Gram form, and products by blocks, whether or not they are chosen."""
    triples = MIXED[name]
    x = torch.randn(2, 40, 100, dtype=torch.float64)
    start = x / torch.linalg.matrix_norm(x, keepdim=True)
    expected = on_singular_values(start, triples, divide=False)
    forms = [orthogonal._iterate] if name in ("linear", "nothing") else [orthogonal._iterate, orthogonal._iterate_gram]
    for block in (384, 16):
        for form in forms:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(symmetric, "SYMMETRIC_BLOCK", block)
                with counted():
                    found, turned = form(start, triples), form(start.mT, triples).mT
            assert (found - expected).norm() <= 1e-12 * expected.norm()
            assert (turned - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("name", MIXED)
def test_every_degree_has_its_derivative(name):
    x = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    with counted():
        orthogonalize(x, coefficients=MIXED[name])
    assert torch.autograd.gradcheck(lambda x: orthogonalize(x, coefficients=MIXED[name]), (x,))


@pytest.mark.parametrize("name", ["newton_schulz", "polar_express", "exact", "svd"])
def test_methods_ask_for_nothing_that_counts_0(name):
    for dtype in DTYPES:
        with iterate_in(dtype), counted():
            for shape in ((40, 100), (100, 40), (20, 20)):
                orthogonalize(torch.randn(shape), method=name)


def terms(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> Tensor:
    """The same by one product and one sum."""
    return alpha * (a @ b) + (0 if c is None else beta * c)


@pytest.mark.parametrize("alpha, beta", [(1, 0), (0.5, 0), (0.5, 2.0), (0.5, -0.0)])
def test_symmetric_products_do_not_read_what_counts_0(alpha, beta, monkeypatch):
    a = torch.randn(2, 40, 40, dtype=torch.float64)
    c = a @ a.mT
    for block in (384, 16):
        monkeypatch.setattr(symmetric, "SYMMETRIC_BLOCK", block)
        for added in (c, None) if beta == 0 else (c,):
            with counted():
                found = symmetric._symmetric_product(a, a.mT, alpha, beta, added)
            torch.testing.assert_close(found, terms(a, a.mT, alpha, beta, added), rtol=0, atol=1e-12)
        if beta == 0:
            assert symmetric._symmetric_product(a, a.mT, alpha, beta, c * math.nan).isfinite().all()


@pytest.mark.parametrize("cls", class_parameters())
def test_steps_ask_for_no_product_that_counts_0(cls):
    made = groups(cls)
    optimizer = build(cls, made)
    for seed in range(2):
        set_gradients(parameters(made), seed)
        with counted():
            optimizer.step(lambda: torch.zeros(())) if getattr(cls, "NEEDS_CLOSURE", False) else optimizer.step()
