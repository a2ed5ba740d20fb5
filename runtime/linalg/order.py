"""What depends on the order of elements: ranks and quantiles along rows, columns, or over whole matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_Dim = int | tuple[int, int]


def _apply_along(function: Callable[[Tensor], Tensor], x: Tensor, dim: _Dim) -> Tensor:
    """function of all lines of x (..., rows, cols) along dim, over both by rows; its result lies in their place."""
    if isinstance(dim, tuple):
        lines = x.flatten(-2).unsqueeze(-2)
        found = function(lines)
        return found.view(x.shape) if found.shape == lines.shape else found
    return function(x) if dim == -1 else function(x.mT).mT.contiguous()


def ranks(x: Tensor, dim: _Dim) -> Tensor:
    """How many elements along dim are smaller, or equal and before it, for each of x (..., rows, cols); NaN is largest.

    In the dtype of x; over both dimensions, elements come row by row.
    """

    def of_lines(lines: Tensor) -> Tensor:
        order = lines.argsort(dim=-1, stable=True)
        numbers = torch.arange(lines.shape[-1], dtype=x.dtype, device=x.device).expand_as(order)
        return torch.empty_like(lines, memory_format=torch.contiguous_format).scatter_(-1, order, numbers)

    return _apply_along(of_lines, x, dim)


def quantiles(x: Tensor, q: float, dim: _Dim) -> Tensor:
    """What a share q, from 0 to 1, of the elements of x (..., rows, cols) along dim lies below; dimensions are kept.

    Between two elements in proportion, as in NumPy; NaN where there is a NaN.
    """

    def of_lines(lines: Tensor) -> Tensor:
        ordered = lines.sort(dim=-1).values
        count = lines.shape[-1]
        shares = 1 - (torch.arange(count, dtype=torch.float64, device=x.device) - q * (count - 1)).abs()
        weighted = torch.where(shares > 0, ordered * shares.to(x.dtype), 0.0).sum(-1, keepdim=True)
        return torch.where(ordered[..., -1:].isnan(), math.nan, weighted)

    return _apply_along(of_lines, x, dim)
