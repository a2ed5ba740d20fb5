"""Penalties: value and derivative against a hand-written form in torch and the interpreter, and what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optforge.generated
from optforge.compiler.driver import check_source
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import find_spec
from optforge.compiler.oracle.interpreter import Inputs, evaluate_function
from optforge.dsl.source import Source
from optforge.generated import TSCNC, TSCNCOfficial
from tests.references.tscnc import tscnc, tscnc_official

SHAPES = ((4, 6), (4, 6), (6, 4), (3, 3), (1, 5), (4, 2, 2, 2))
TOLERANCE = 1e-11

USUAL: dict[str, Any] = {"sparsity": 1e-3, "condition": 1e-3, "a": 100.0}
CASES = [
    ("TSCNC", tscnc, USUAL),
    ("TSCNC", tscnc, {**USUAL, "sparsity": 0.7}),
    ("TSCNC", tscnc, {**USUAL, "condition": 0.7}),
    ("TSCNC", tscnc, {**USUAL, "sparsity": 0.7, "a": 0.3}),
    ("TSCNCOfficial", tscnc_official, {**USUAL, "eps": 1e-5}),
    ("TSCNCOfficial", tscnc_official, {**USUAL, "condition": 0.7, "eps": 1e-2}),
]
every_case = pytest.mark.parametrize(
    "name, by_hand, hypers", CASES, ids=lambda x: str(x) if isinstance(x, dict) else ""
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(SHAPES)]


def penalty(name: str) -> Callable[..., Any]:
    return getattr(optforge.generated, name)


@every_case
def test_value_and_derivative(name, by_hand, hypers):
    params, vector = matrices(), nn.Parameter(randn(5))
    found, expected = penalty(name)([*params, vector], **hypers)(), by_hand(params, **hypers)
    assert found.shape == () and found.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    ours, theirs = torch.autograd.grad(found, params), torch.autograd.grad(expected, params)
    for our, their in zip(ours, theirs, strict=True):
        assert float((our - their).norm()) <= TOLERANCE * float(their.norm())


@every_case
def test_interpreter_agrees(name, by_hand, hypers):
    path = find_spec(name)
    program = check_source(Source(path.name, path.read_text(encoding="utf-8")), path.parent).require()
    (declaration,) = program.declarations
    assert isinstance(declaration, ir.Penalty)
    (rule,) = declaration.rules
    for p in matrices():
        inputs = Inputs(p.detach().flatten(1).numpy(), hypers=hypers)
        found = float(evaluate_function(rule.update, inputs)["loss"].item())
        assert found == pytest.approx(by_hand([p], **hypers).item(), rel=TOLERANCE)


@pytest.mark.parametrize("name, by_hand", [("TSCNC", tscnc), ("TSCNCOfficial", tscnc_official)])
def test_defaults_are_those_of_the_cases(name, by_hand):
    extra = {"eps": 1e-5} if name == "TSCNCOfficial" else {}
    params = matrices()
    assert penalty(name)(params)().item() == pytest.approx(by_hand(params, **USUAL, **extra).item(), rel=TOLERANCE)


def condition_of(weight: Tensor) -> float:
    return TSCNC([weight], sparsity=0, condition=1)().item()


def test_the_condition_term_is_zero_where_singular_values_are_equal():
    q, _ = torch.linalg.qr(randn(6, 4))
    assert abs(condition_of(3.7 * q)) < 1e-13 and abs(condition_of(0.2 * q.T)) < 1e-13
    assert condition_of(q @ torch.diag(torch.tensor([1.0, 1, 1, 1.01], dtype=torch.float64))) > 1e-6


def test_the_condition_term_depends_on_neither_scale_nor_orientation():
    weight = randn(5, 8)
    expected = condition_of(weight)
    assert expected > 1
    for other in (1e3 * weight, 1e-3 * weight, weight.T, weight.flip(0)):
        assert condition_of(other) == pytest.approx(expected, rel=1e-11)


def test_the_condition_term_grows_as_a_singular_value_vanishes():
    u, s, vh = torch.linalg.svd(randn(5, 5))
    found = []
    for shrunk in (1.0, 1e-1, 1e-3, 1e-6):
        s_shrunk = s.clone()
        s_shrunk[-1] = shrunk * s[-1]
        found.append(condition_of(u @ torch.diag(s_shrunk) @ vh))
    assert found == sorted(found) and found[-1] > found[0] + 20


def test_large_matrices_stay_finite():
    """Their determinants are 0 or infinite in float32, as the published form sees them."""
    weight = nn.Parameter(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) / 16)
    loss = TSCNC([weight], sparsity=0, condition=1)()
    loss.backward()
    assert torch.linalg.det(weight @ weight.mT).item() == 0
    assert loss.isfinite() and weight.grad.isfinite().all() and weight.grad.any()


def test_the_sparse_term_counts_or_adds():
    weight = torch.tensor([[0.0, -2.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    counted, added = (TSCNC([weight], sparsity=1, condition=0, a=a)().item() for a in (1e-9, 1e9))
    assert counted == pytest.approx(3, abs=1e-7) and added == pytest.approx(3.5, abs=1e-7)


def test_minimizing_the_penalty_improves_the_condition_number():
    weight = nn.Parameter(randn(6, 6))
    before = torch.linalg.cond(weight).item()
    optimizer, loss = torch.optim.Adam([weight], lr=0.02), TSCNC([weight], condition=1)
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert torch.linalg.cond(weight).item() < min(1.5, 0.2 * before)


def test_a_model_is_penalized_in_its_matrices_and_head():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    weights = [model[0].weight, model[2].weight]
    assert TSCNC(model)().item() == pytest.approx(tscnc(weights, **USUAL).item(), rel=TOLERANCE)
    assert TSCNCOfficial(model, condition=0)().item() == pytest.approx(
        tscnc_official(weights, 1e-3, 0, 100.0, 1e-5).item(), rel=TOLERANCE
    )
