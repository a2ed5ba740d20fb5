"""Events that are given matrices: which parameters they are for, in what shapes, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optforge

MODULE = optforge.compile_source(
    """
optimizer Given:
    on sides(k: cols x cols, level: rows x 1):
        s = k
        h = level

    on second(g: rows x cols):
        weight <- weight - g

    for matrix:
        weight <- weight - 0.1 * (grad + h) @ s

    for rest:
        weight <- weight - 0.1 * grad

optimizer Wide:
    on sides(k: cols x cols, g: rows x cols):
        s = k
        u = g

    for matrix as wide:
        weight <- weight - 0.1 * (grad + u) @ s

    for rest:
        weight <- weight - 0.1 * grad
"""
)


def weight(*shape: int, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Tensor, dict[str, Any]]:
    p = nn.Parameter(torch.randn(shape, dtype=dtype))
    p.grad = torch.randn(shape, dtype=dtype)
    return p, {"params": [p], "rule": "matrix", **options}


def square(size: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64)


def expected(w: Tensor, g: Tensor, k: Tensor, level: Tensor) -> Tensor:
    return w - 0.1 * (g + level) @ k


def test_a_dictionary_says_for_which_parameters():
    (one, first), (other, second) = weight(4, 6), weight(4, 6)
    optimizer = MODULE.Given([first, second])
    k, level, before = square(6), torch.randn(4, 1, dtype=torch.float64), one.detach().clone()
    optimizer.sides({one: k}, {one: level})
    assert optimizer.state[one]["sides_step"] == 1 and optimizer.state[other]["sides_step"] == 0
    optimizer.step()
    assert torch.allclose(one, expected(before, one.grad, k, level), atol=1e-12)


def test_one_tensor_is_for_all_and_is_not_kept():
    (one, first), (other, second) = weight(4, 6), weight(4, 6)
    optimizer = MODULE.Given([first, second])
    k, level = square(6), torch.randn(4, 1, dtype=torch.float64)
    optimizer.sides(k, level)
    kept = k.clone()
    optimizer.step()
    assert torch.equal(k, kept)
    for p in (one, other):
        assert torch.equal(optimizer.state[p]["s"], k)
        assert optimizer.state[p]["s"].untyped_storage().data_ptr() != k.untyped_storage().data_ptr()


@pytest.mark.parametrize("split", [2, (1, 3)])
def test_parts_of_a_split_parameter_share_a_matrix(split: Any):
    p, group = weight(4, 6, split=split)
    optimizer = MODULE.Given([group])
    k, level, before = square(6), torch.randn(4, 1, dtype=torch.float64), p.detach().clone()
    optimizer.sides({p: k}, {p: level})
    optimizer.step()
    assert torch.allclose(p, expected(before, p.grad, k, level), atol=1e-12)


def test_parts_may_have_their_own():
    p, group = weight(4, 6, split=2)
    optimizer = MODULE.Given([group])
    k, before = torch.randn(2, 6, 6, dtype=torch.float64), p.detach().clone()
    optimizer.sides({p: k}, {p: torch.zeros(4, 1, dtype=torch.float64)})
    optimizer.step()
    parts = [before[i : i + 2] - 0.1 * p.grad[i : i + 2] @ k[i // 2] for i in (0, 2)]
    assert torch.allclose(p, torch.cat(parts), atol=1e-12)


def test_batches_and_convolutions():
    experts, first = weight(3, 4, 6, batch=1)
    conv, second = weight(4, 3, 2, 2)
    optimizer = MODULE.Given([first, second])
    k, kc, before = square(6), square(12), [experts.detach().clone(), conv.detach().clone()]
    zeros = {experts: torch.zeros(4, 1, dtype=torch.float64), conv: torch.zeros(4, 1, dtype=torch.float64)}
    optimizer.sides({experts: k, conv: kc}, zeros)
    optimizer.step()
    assert torch.allclose(experts, before[0] - 0.1 * experts.grad @ k, atol=1e-12)
    assert torch.allclose(conv, before[1] - 0.1 * (conv.grad.view(4, 12) @ kc).view_as(conv), atol=1e-12)


def test_an_oriented_rule_sees_the_matrix_as_its_gradient():
    p, group = weight(6, 4)
    optimizer = MODULE.Wide([group])
    k, g, before = square(6), torch.randn(6, 4, dtype=torch.float64), p.detach().clone()
    optimizer.sides({p: k}, {p: g})
    optimizer.step()
    assert torch.allclose(p, before - 0.1 * ((p.grad + g).T @ k).T, atol=1e-12)


def test_full_matrices_reach_rules_for_any_shape():
    (p, group), vector = weight(4, 6), nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = MODULE.Given([group, {"params": [vector], "rule": "rest"}])
    optimizer.second({p: torch.zeros_like(p), vector: torch.ones_like(vector)})
    assert vector.tolist() == [-1.0] * 3


def test_statistics_may_be_of_another_precision():
    p, group = weight(4, 6, dtype=torch.bfloat16)
    optimizer = MODULE.Given([group])
    optimizer.sides({p: square(6)}, {p: torch.zeros(4, 1)})
    assert optimizer.state[p]["s"].dtype == torch.float32


def test_what_is_not_finite_is_skipped_as_a_gradient_is():
    p, group = weight(4, 6)
    optimizer = MODULE.Given([group], skip_nonfinite=True)
    k = square(6)
    k[1, 2] = torch.nan
    optimizer.sides({p: k}, {p: torch.zeros(4, 1, dtype=torch.float64)})
    assert optimizer.state[p]["sides_step"] == 0 and not optimizer.state[p]["s"].any()


LEVEL = torch.zeros(4, 1, dtype=torch.float64)
WRONG = {
    "shape": (lambda p, r: ({p: square(5)}, {p: LEVEL}), ValueError, r"sides\(k\) of .*\(5, 5\), where \(6, 6\)"),
    "number": (lambda p, r: (3.0, LEVEL), TypeError, r"sides\(k\) takes a tensor, or a dictionary"),
    "no tensor": (lambda p, r: ({p: 3.0}, {p: LEVEL}), TypeError, r"sides\(k\) of .* is no tensor"),
    "integers": (lambda p, r: ({p: square(6).long()}, {p: LEVEL}), ValueError, "torch.int64"),
    "device": (lambda p, r: ({p: square(6).to("meta")}, {p: LEVEL}), ValueError, "is on meta"),
    "stranger": (lambda p, r: ({torch.zeros(2): square(6)}, LEVEL), ValueError, "no parameter of the optimizer"),
    "other rule": (lambda p, r: ({r: square(6)}, {p: LEVEL}), ValueError, "rule 'rest' takes none"),
    "one of two": (lambda p, r: ({p: square(6)}, {}), ValueError, "'level' has not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_by_name_and_changes_nothing(case: str):
    (p, group), rest = weight(4, 6), nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = MODULE.Given([group, {"params": [rest], "rule": "rest"}])
    make, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        optimizer.sides(*make(p, rest))
    assert optimizer.state[p]["sides_step"] == 0
