"""`orthogonalize`: the polar factor of matrices by odd polynomials. Matrices have any leading batch dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .hypers import _nearest
from .matrices import _at_least_float32, _polar_factor, _shielded

Triples = Sequence[tuple[float, float, float]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
EXACT_QUINTIC = (2.0, -1.5, 0.5)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),  # and so on
)
POLAR_EXPRESS_SAFETY = 1.01

_iteration_dtype: torch.dtype | None = None


@contextmanager
def iterate_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context `orthogonalize` iterates in `dtype`, whatever the device."""
    global _iteration_dtype
    before, _iteration_dtype = _iteration_dtype, dtype
    try:
        yield
    finally:
        _iteration_dtype = before


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _multiplies_float32_exactly() -> bool:
    return torch.get_float32_matmul_precision() == "highest"


def _dtype_of_iteration(x: Tensor) -> torch.dtype:
    if _iteration_dtype is not None:
        return _iteration_dtype
    if x.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if _multiplies_bfloat16(x.device) else torch.float32


def _triples(method: str, steps: float) -> Triples:
    """The coefficients (a, b, c) of each of the steps x -> a x + b x³ + c x⁵ on singular values."""
    if steps != int(steps):
        raise ValueError(f"invalid steps={steps!r} of orthogonalize: a whole number is expected")
    steps = int(steps)
    if method == "newton_schulz":
        return [NEWTON_SCHULZ] * steps
    if method == "exact":
        return [EXACT_QUINTIC] * steps
    if method != "polar_express":
        methods = ("newton_schulz", "polar_express", "exact", "svd")
        raise ValueError(f"unknown method {method!r} of orthogonalize{_nearest(method, methods)}")
    table = [POLAR_EXPRESS[min(k, len(POLAR_EXPRESS) - 1)] for k in range(steps)]
    s = POLAR_EXPRESS_SAFETY
    return [(a / s, b / s**3, c / s**5) for a, b, c in table[:-1]] + table[-1:]


def orthogonalize(
    x: Tensor, steps: float = 5, method: str = "newton_schulz", coefficients: Triples | None = None
) -> Tensor:
    """The nearest orthogonal matrix to each matrix of x (..., rows, cols), exactly ("svd") or by odd quintic steps.

    `coefficients` are explicit triples, one per step, instead of those of `method` and `steps`. The matrix is first
    divided by its Frobenius norm. Iterates in float64 for float64, in bfloat16 where the device multiplies it fast,
    else in float32 (`iterate_in` overrides). Zero stays zero; NaN and infinity give NaN. Result in the dtype of x.
    """
    wide = _at_least_float32(x)
    norm = _frobenius_norm(wide)
    if method == "svd" and coefficients is None:
        return torch.where(norm == 0, wide, _shielded(_polar_factor, wide)).to(x.dtype)
    margin = POLAR_EXPRESS_SAFETY if method == "polar_express" and coefficients is None else 1.0
    unit = (wide / (norm * margin).clamp_min(1e-30)).to(_dtype_of_iteration(x))
    triples = _triples(method, steps) if coefficients is None else coefficients
    start = unit.reshape(-1, *x.shape[-2:])
    result = _iterate_gram(start, triples) if _gram_pays(start, triples) else _iterate(start, triples)
    return result.reshape(x.shape).to(x.dtype)


def _frobenius_norm(x: Tensor) -> Tensor:
    """(..., 1, 1); summed in float64, since squares of small float32 numbers vanish."""
    sums = x.dtype if x.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=sums)
    return norm.to(x.dtype)


def _gram_pays(x: Tensor, triples: Triples) -> bool:
    """Whether the Gram form is cheaper for x (batch, k, l) and accurate enough.

    It squares the condition number: float64 is chosen for accuracy, bfloat16 and TF32 do not survive it, and it has
    been verified for the default coefficients only. It overwrites what a derivative would need.
    """
    single = x.dtype == torch.float32 and _multiplies_float32_exactly()
    default = all(triple == NEWTON_SCHULZ for triple in triples)
    return single and default and max(x.shape[-2:]) > 1.5 * min(x.shape[-2:]) and not x.requires_grad


def _gram(x: Tensor) -> Tensor:
    """X Xᵀ, or Xᵀ X, whichever is smaller."""
    return _symmetric_product(x.mT, x) if x.shape[-2] > x.shape[-1] else _symmetric_product(x, x.mT)


def _iterate(x: Tensor, triples: Triples) -> Tensor:
    """x (batch, rows, cols) after the steps X <- a X + (b A + c A²) X with A = X Xᵀ, or its mirror image if tall."""
    for a, b, c in triples:
        gram = _gram(x)
        polynomial = _symmetric_product(gram, gram, c, b, gram)
        factors = (x, polynomial) if x.shape[-2] > x.shape[-1] else (polynomial, x)
        x = torch.baddbmm(x, *factors, beta=a)
    return x


def _iterate_gram(x: Tensor, triples: Triples) -> Tensor:
    """As `_iterate`, but on the small Gram matrix r: x is multiplied once, by the product q of all polynomials."""
    r = _gram(x)
    q: Tensor | None = None
    for i, (a, b, c) in enumerate(triples, 1):
        z = _symmetric_product(r, r, c, b, r)
        if i < len(triples):
            rz = _symmetric_product(r, z, 1, a, r)
            r = _symmetric_product(z, rz, 1, a, rz)
        if q is None:
            q = z
            q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            q = _symmetric_product(q, z, 1, a, q)
    if q is None:
        return x
    return torch.bmm(x, q) if x.shape[-2] > x.shape[-1] else torch.bmm(q, x)


SYMMETRIC_BLOCK = 384  # smaller products gain nothing from being cut


def _symmetric_product(a: Tensor, b: Tensor, alpha: float = 1, beta: float = 0, c: Tensor | None = None) -> Tensor:
    """alpha a b + beta c, of which c (batch, k, k) and the product are symmetric.

    Large products on the CPU compute only the blocks on and below the diagonal.
    """
    plain = a.device.type != "cpu" or a.requires_grad or torch.compiler.is_compiling()
    if plain or a.shape[-2] <= SYMMETRIC_BLOCK:
        return torch.bmm(a, b) if c is None else torch.baddbmm(c, a, b, beta=beta, alpha=alpha)
    out = a.new_empty(a.shape[0], a.shape[1], a.shape[1])
    _fill_symmetric(out, a, b, alpha, beta, out if c is None else c)
    return out


def _fill_symmetric(out: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor) -> None:
    """Writes alpha a b + beta c to out (batch, k, k): halves on the diagonal, the one below it, and its transpose."""
    if out.shape[-1] <= SYMMETRIC_BLOCK:
        torch.baddbmm(c, a, b, beta=beta, alpha=alpha, out=out)
        return
    h = out.shape[-1] // 2
    _fill_symmetric(out[:, :h, :h], a[:, :h], b[..., :h], alpha, beta, c[:, :h, :h])
    _fill_symmetric(out[:, h:, h:], a[:, h:], b[..., h:], alpha, beta, c[:, h:, h:])
    torch.baddbmm(c[:, h:, :h], a[:, h:], b[..., :h], beta=beta, alpha=alpha, out=out[:, h:, :h])
    out[:, :h, h:] = out[:, h:, :h].mT
