"""Matrix functions for kernels: roots, bases, traces and determinants. Matrices have any leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from .numbers import power


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _call_shielded(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) of the finite matrices in x and NaN for the others, on which LAPACK would raise or not return.

    The result lies in memory row by row, while LAPACK writes columns.
    """
    finite = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(finite, function(torch.where(finite, x, 0.0)), math.nan).contiguous()


def _symmetric(s: Tensor) -> Tensor:
    wide = _at_least_float32(s)
    return (wide + wide.mT) / 2


def _polar_factor(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return cast(Tensor, u @ vh)


def inverse_root(s: Tensor, p: float, eps: float = 1e-12) -> Tensor:
    """(sym(s) + eps)^(-1/p) of each square matrix of s (..., n, n), negative eigenvalues counted as zero."""

    def root(symmetric: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric)
        scaled: Tensor = vectors * power(values.clamp_min(0) + eps, -1 / p).unsqueeze(-2)
        return torch.matmul(scaled, vectors.mT)

    return _call_shielded(root, _symmetric(s)).to(s.dtype)


def mpower(s: Tensor, a: float, ridge: Tensor | float = 0.0) -> Tensor:
    """(sym(s) + ridge)^a of each square matrix of s (..., n, n), negative eigenvalues counted as zero.

    The ridge is a number, or one for each matrix (..., 1, 1).
    """
    added = ridge.squeeze(-1).to(_at_least_float32(s).dtype) if isinstance(ridge, Tensor) and ridge.ndim else ridge

    def root(symmetric: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric)
        scaled: Tensor = vectors * power(values.clamp_min(0) + added, a).unsqueeze(-2)
        return torch.matmul(scaled, vectors.mT)

    return _call_shielded(root, _symmetric(s)).to(s.dtype)


def eigenvalues(s: Tensor) -> Tensor:
    """(..., 1, n): the eigenvalues of sym(s) (..., n, n), ascending."""
    symmetric = _symmetric(s)
    finite = symmetric.isfinite().all(-1).all(-1)[..., None, None]
    found: Tensor = torch.linalg.eigvalsh(torch.where(finite, symmetric, 0.0)).unsqueeze(-2)
    return torch.where(finite, found, math.nan).to(s.dtype)


def _signs(x: Tensor) -> Tensor:
    """-1 where x is negative and 1 elsewhere, in the dtype of x: numbers given to `where` would be float32 first."""
    return 1 - 2 * (x < 0).to(x.dtype)


def eigenbasis(s: Tensor) -> Tensor:
    """Eigenvectors of sym(s) (..., n, n) as columns, by ascending eigenvalue; the largest component is positive."""

    def basis(symmetric: Tensor) -> Tensor:
        vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors
        largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
        return vectors * _signs(largest)

    return _call_shielded(basis, _symmetric(s)).to(s.dtype)


def qr(x: Tensor) -> Tensor:
    """The orthonormal factor of each square matrix of x (..., n, n), whose triangular one has a positive diagonal."""

    def factor(square: Tensor) -> Tensor:
        q, r = torch.linalg.qr(square)
        return torch.mul(q, _signs(r.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2))

    return _call_shielded(factor, _at_least_float32(x)).to(x.dtype)


def solve(s: Tensor, b: Tensor) -> Tensor:
    """The x for which s x = b, of each square matrix of s (..., n, n) and b (..., n, k).

    NaN where s is singular or one of both not finite.
    """

    def solution(square: Tensor) -> Tensor:
        found, problem = torch.linalg.solve_ex(square, right)
        return torch.where(problem[..., None, None] == 0, found, math.nan)

    finite = (s.isfinite().all(-1).all(-1) & b.isfinite().all(-1).all(-1))[..., None, None]
    right = torch.where(finite, _at_least_float32(b), 0.0)
    return torch.where(finite, _call_shielded(solution, _at_least_float32(s)), math.nan).contiguous().to(b.dtype)


def cholesky(s: Tensor) -> Tensor:
    """The lower triangular l with a positive diagonal for which l lᵀ = sym(s), of each square matrix of s (..., n, n).

    NaN where sym(s) is not positive definite.
    """

    def factor(symmetric: Tensor) -> Tensor:
        found, problem = torch.linalg.cholesky_ex(symmetric)
        return torch.where(problem[..., None, None] == 0, found, math.nan)

    return _call_shielded(factor, _symmetric(s)).to(s.dtype)


def index(like: Tensor, dim: int) -> Tensor:
    """The number of each row (dim=-1), or column (dim=-2), of matrices like (..., rows, cols), from 0 on.

    (..., rows, 1) or (..., 1, cols), in the dtype of `like`.
    """
    sizes = [*like.shape]
    sizes[dim] = 1
    numbers = torch.arange(sizes[-3 - dim], dtype=like.dtype, device=like.device)
    return numbers.view(sizes[-2:]).expand(sizes).contiguous()


def trace(x: Tensor) -> Tensor:
    """(..., 1, 1): the trace of each square matrix of x (..., n, n)."""
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def det(x: Tensor) -> Tensor:
    """(..., 1, 1): the determinant of each square matrix of x (..., n, n)."""
    determinant: Tensor = torch.linalg.det(_at_least_float32(x))
    return determinant.to(x.dtype)[..., None, None]


def logdet(x: Tensor) -> Tensor:
    """(..., 1, 1): the logarithm of the determinant's absolute value, which itself often is too small to be held."""
    logarithm: Tensor = torch.linalg.slogdet(_at_least_float32(x)).logabsdet
    return logarithm.to(x.dtype)[..., None, None]
