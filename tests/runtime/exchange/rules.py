"""Rules written by hand for whole matrices and, as generators, for shards of them.

States are full unless `states` says otherwise; what is `owned` lives with the owner of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optforge.runtime import eigenbasis, orthogonalize
from optforge.runtime.exchange.over import Over
from optforge.runtime.exchange.sharding import FULL, Dims

Values = tuple[Tensor, ...]
Step = Generator[Any, Any, Values]


@dataclass(frozen=True)
class HandWritten:
    """`plain(weight, grad, *states, rows=, cols=)`, and `shards` with `over=` beside them."""

    plain: Callable[..., Values]
    shards: Callable[..., Step]
    states: Mapping[str, Dims]
    owned: frozenset[str] = frozenset()


def muon(weight: Tensor, grad: Tensor, m: Tensor, *, rows: int, cols: int) -> Values:
    m = m.lerp_(grad, 0.05)
    weight = weight.sub_(0.02 * (orthogonalize(m) * math.sqrt(max(1, rows / cols)) + 0.1 * weight))
    return weight, m


def muon_shards(weight: Tensor, grad: Tensor, m: Tensor, *, over: Over, rows: int, cols: int) -> Step:
    m = m.lerp_(grad, 0.05)
    (o,) = yield over.whole(orthogonalize, m)
    weight = weight.sub_(0.02 * (o * math.sqrt(max(1, rows / cols)) + 0.1 * weight))
    return weight, m


def normuon(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, rows: int, cols: int) -> Values:
    m = m.lerp_(grad, 0.05)
    o = orthogonalize(m)
    mean_o = o.square().mean(dim=-1, keepdim=True)
    v = v.lerp_(mean_o, 0.05)
    add_v = v.sqrt() + 1e-8
    u = o.div_(add_v)
    denominator = ((mean_o * cols).sqrt() / add_v).norm(dim=(-2, -1), keepdim=True)
    d = u * (0.2 * math.sqrt(rows * cols)) / denominator.clamp(min=1e-10)
    weight = weight.sub_(0.02 * (d + 0.1 * weight))
    return weight, m, v


def normuon_shards(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, over: Over, rows: int, cols: int) -> Step:
    m = m.lerp_(grad, 0.05)
    (o,) = yield over.whole(orthogonalize, m)
    mean_o = yield over.mean(o.square(), "row")
    v = v.lerp_(mean_o, 0.05)
    add_v = v.sqrt() + 1e-8
    u = o.div_(add_v)
    denominator = yield over.norm((mean_o * cols).sqrt() / add_v, "all", dims=("rows", 1))
    d = u * (0.2 * math.sqrt(rows * cols)) / denominator.clamp(min=1e-10)
    weight = weight.sub_(0.02 * (d + 0.1 * weight))
    return weight, m, v


def namo(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, rows: int, cols: int) -> Values:
    m = m.lerp_(grad, 0.05)
    v = v.lerp_(grad.norm(dim=(-2, -1), keepdim=True).square(), 0.01)
    alpha = m.norm(dim=(-2, -1), keepdim=True) / (v.sqrt() + 1e-8)
    weight = weight.sub_(0.02 * alpha * (orthogonalize(m) + 0.1 * weight))
    return weight, m, v


def namo_shards(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, over: Over, rows: int, cols: int) -> Step:
    m = m.lerp_(grad, 0.05)
    (o,), norm_grad, norm_m = yield over.whole(orthogonalize, m), over.norm(grad, "all"), over.norm(m, "all")
    v = v.lerp_(norm_grad.square(), 0.01)
    alpha = norm_m / (v.sqrt() + 1e-8)
    weight = weight.sub_(0.02 * alpha * (o + 0.1 * weight))
    return weight, m, v


def lamb(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, rows: int, cols: int) -> Values:
    m = m.lerp_(grad, 0.1)
    v = v.lerp_(grad.square(), 0.01)
    d = m / (v.sqrt() + 1e-8) + 0.1 * weight
    ratio = weight.norm(dim=(-2, -1), keepdim=True) / d.norm(dim=(-2, -1), keepdim=True)
    weight = weight.sub_(0.02 * ratio * d)
    return weight, m, v


def lamb_shards(weight: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, over: Over, rows: int, cols: int) -> Step:
    m = m.lerp_(grad, 0.1)
    v = v.lerp_(grad.square(), 0.01)
    d = m / (v.sqrt() + 1e-8) + 0.1 * weight
    norm_weight, norm_d = yield over.norm(weight, "all"), over.norm(d, "all")
    weight = weight.sub_(0.02 * (norm_weight / norm_d) * d)
    return weight, m, v


def reductions(weight: Tensor, grad: Tensor, r: Tensor, c: Tensor, *, rows: int, cols: int) -> Values:
    """Every reduction per all, row and col; r has a value per row, c one per column."""
    r = r + grad.mean(dim=-1, keepdim=True) + grad.amax(dim=-1, keepdim=True)
    c = c + grad.mean(dim=-2, keepdim=True) + grad.amin(dim=-2, keepdim=True)
    s = r.amax(dim=(-2, -1), keepdim=True) * c.sum(dim=(-2, -1), keepdim=True)
    s = s + grad.mean(dim=(-2, -1), keepdim=True) + (weight * grad).sum(dim=(-2, -1), keepdim=True)
    n = grad.norm(dim=-1, keepdim=True) + grad.norm(dim=-2, keepdim=True)
    p = (weight * grad).sum(dim=-1, keepdim=True) + weight.sum(dim=-2, keepdim=True)
    weight = weight.sub_(0.02 * (r + c + s + n + p))
    return weight, r, c


def reductions_shards(weight: Tensor, grad: Tensor, r: Tensor, c: Tensor, *, over: Over, rows: int, cols: int) -> Step:
    row, col, most_row, least_col, mean = yield (
        over.mean(grad, "row"),
        over.mean(grad, "col"),
        over.amax(grad, "row"),
        over.amin(grad, "col"),
        over.mean(grad, "all"),
    )
    r = r + row + most_row
    c = c + col + least_col
    most, total, dot, norm_row, norm_col, dot_row, sum_col = yield (
        over.amax(r, "all", dims=("rows", 1)),
        over.sum(c, "all", dims=(1, "cols")),
        over.dot(weight, grad, "all"),
        over.norm(grad, "row"),
        over.norm(grad, "col"),
        over.dot(weight, grad, "row"),
        over.sum(weight, "col"),
    )
    s = most * total + mean + dot
    weight = weight.sub_(0.02 * (r + c + s + (norm_row + norm_col) + (dot_row + sum_col)))
    return weight, r, c


def soap_whole(grad: Tensor, row: Tensor, n: Tensor, *owned: Tensor, scale: float) -> Values:
    """The update, the mean square of its columns and the norm of it all; and the new owned states.

    What is added to l keeps its eigenvalues apart, as otherwise the last bits of a gradient decide about a basis.
    """
    l, q, m, v = owned
    l = l.lerp(grad @ grad.mT, 0.05)
    q = eigenbasis(l + torch.diag(torch.arange(l.shape[-1], dtype=l.dtype)))
    m = m.lerp_(grad, 0.1)
    v = v.lerp_((q.mT @ grad).square(), 0.05)
    u = scale * (q @ ((q.mT @ m) / (v.sqrt() + 1e-8))) + row * n
    return u, u.square().mean(dim=-2, keepdim=True), u.norm(dim=(-2, -1), keepdim=True), l, q, m, v


def numbered(n: Tensor) -> Tensor:
    """Other numbers for each matrix."""
    return n.add_(torch.arange(1, len(n) + 1, dtype=n.dtype).view(-1, 1, 1))


def soap(weight: Tensor, grad: Tensor, row: Tensor, n: Tensor, *owned: Tensor, rows: int, cols: int) -> Values:
    row = row.lerp_(grad.mean(dim=-1, keepdim=True), 0.1)
    n = numbered(n)
    u, mean_u, norm_u, *owned_ = soap_whole(grad, row, n, *owned, scale=0.5)
    weight = weight.sub_(0.02 * (u + mean_u / norm_u + 0.1 * weight))
    return weight, row, n, *owned_


def soap_shards(
    weight: Tensor, grad: Tensor, row: Tensor, n: Tensor, *owned: Tensor, over: Over, rows: int, cols: int
) -> Step:
    row = row.lerp_((yield over.mean(grad, "row")), 0.1)
    n = numbered(n)
    u, mean_u, norm_u, *owned_ = yield over.whole(
        soap_whole,
        grad,
        row,
        n,
        dims=(FULL, ("rows", 1), (1, "cols")),
        gives=(FULL, (1, "cols"), (1, 1)),
        owned=owned,
        scale=0.5,
    )
    weight = weight.sub_(0.02 * (u + mean_u / norm_u + 0.1 * weight))
    return weight, row, n, *owned_


ROW: Dims = ("rows", 1)
RULES = {
    "muon": HandWritten(muon, muon_shards, {"m": FULL}),
    "normuon": HandWritten(normuon, normuon_shards, {"m": FULL, "v": ROW}),
    "namo": HandWritten(namo, namo_shards, {"m": FULL, "v": (1, 1)}),
    "lamb": HandWritten(lamb, lamb_shards, {"m": FULL, "v": FULL}),
    "reductions": HandWritten(reductions, reductions_shards, {"r": ROW, "c": (1, "cols")}),
    "soap": HandWritten(
        soap,
        soap_shards,
        {"row": ROW, "n": (1, "cols"), "l": ("rows", "rows"), "q": ("rows", "rows"), "m": FULL, "v": FULL},
        frozenset(("l", "q", "m", "v")),
    ),
}
