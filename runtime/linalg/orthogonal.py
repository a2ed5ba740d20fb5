"""`orthogonalize`: the polar factor of matrices by odd polynomials. Matrices have any leading batch dimensions.

The dtype of the iteration and its form are decided here from the device, the dtype, the shape and the coefficients;
`explain_orthogonalize` says how. While torch traces, the whole function is one opaque operator, so that compiled
programs do exactly what eager ones do. Where a derivative is needed it is the plain form, and traced.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..contract.arguments import _kind_of, _require_kind
from .matrices import _at_least_float32, _call_shielded, _polar_factor
from .opaque import _define_operator
from .polynomials import Triples, _Divisor, _divisor, _triples
from .symmetric import _explain_products, _multiplies_float32_exactly, _plain_product, _symmetric_product

# -- in what dtype -----------------------------------------------------------------------------------------------------

_BFLOAT16_SIZE_ON_CPU = 128  # oneDNN's calls cost so much that smaller products are slower in bfloat16

_iteration_dtype: ContextVar[torch.dtype | None] = ContextVar("dtype of the iteration", default=None)


@contextmanager
def iterate_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context, of this thread or task, `orthogonalize` iterates in `dtype`, whatever the device.

    Without it float64 is iterated in float64, and what all else is iterated in depends on the machine: bfloat16 where
    there are instructions for products of bfloat16 matrices (CUDA from capability 8.0 on; CPUs with AMX, AVX512-BF16 or
    Arm's BF16, there from a short side of 128 on), else float32. In a given dtype machines agree up to its rounding.
    A compiled program asks when it runs; where it needs a derivative, when it is compiled.
    """
    _require_floating("iterate_in", dtype)
    token = _iteration_dtype.set(dtype)
    try:
        yield
    finally:
        _iteration_dtype.reset(token)


def _require_floating(what: str, dtype: object) -> None:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"{what} takes the dtype of real numbers, such as torch.float32, not {dtype!r}")


def _device_named(what: str, device: torch.device | str) -> torch.device:
    """The device; TypeError if it is none."""
    _require_kind(what, device, (str, torch.device), "a device or its name")
    try:
        return torch.device(device)
    except RuntimeError:
        raise TypeError(f"{what} takes a device or its name, such as 'cuda:0', not {device!r}") from None


def _dtype_of_iteration(dtype: torch.dtype, device: torch.device, shape: Sequence[int]) -> torch.dtype:
    """bfloat16 only where products of that shape are faster in it: elsewhere they may take 60 times longer."""
    small: torch.dtype
    large: torch.dtype
    small, large = _dtypes_of_iteration(dtype, device)
    return small if min(shape[-2:]) < _BFLOAT16_SIZE_ON_CPU else large


def _dtypes_of_iteration(dtype: torch.dtype, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes of small and of large matrices, as far as a processor tells them apart."""
    override = _iteration_dtype.get()
    if override is not None:
        return override, override
    if dtype == torch.float64:
        return torch.float64, torch.float64
    large = torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.float32 if device.type == "cpu" else large, large


# What torch.compiler.assume_constant_result does, without the seconds that importing torch._dynamo takes.
_dtypes_of_iteration._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions of its own that multiply bfloat16 matrices."""
    if device.type == "cpu":
        return _onednn_multiplies_bfloat16()
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _onednn_multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices here by AMX, AVX512-BF16 or Arm's BF16.

    Of an x86 processor it says so as well where it would emulate these by AVX-512. Every processor with AMX has
    AVX512-BF16.
    """
    backend = torch.backends.mkldnn
    if not (backend.is_available() and backend.enabled and torch.ops.mkldnn._is_mkldnn_bf16_supported()):  # type: ignore[no-untyped-call]
        return False
    return platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_avx512_bf16_supported()


# -- in which form -----------------------------------------------------------------------------------------------------

# The Gram form works on R = X Xᵀ, whose rounding errors lie in the direction of small singular values too, where each
# step X <- a X + ... multiplies them by a². Before they would exceed these fractions of the largest eigenvalue, it
# restarts: it multiplies X and forms R anew. Measured against the map on singular values, relative to the result in the
# Frobenius norm, as the worst of gaussian, log-spaced (1 to 1e-6) and rank 8 spectra (plain form / Gram form):
#
#              newton_schulz, 5 steps              polar_express, 5 steps              exact, 7 steps
#   float64    2e-13 / 2e-13  restart after 4      4e-13 / 7e-13  after 2              5e-14 / 1e-13  never
#   float32    2e-5  / 5e-4   never                4e-5  / 3e-4   after 2              3e-6  / 4e-5   never
#   float16    0.03  / 0.009  after 2 and 4        0.05  / 0.05   after 1, 2 and 3     0.01  / 0.004  after 3 and 6
#   bfloat16   0.22  / 0.06   after 2 and 4        0.32           the plain form       0.08  / 0.05   after 2, 4 and 6
#
# In 16 bits, however products are summed (in float32 or in the dtype itself, in blocks of any order, each term rounded
# or not), the Gram form was found to err at most 2.6 times as much as the plain one; 3 times is what is promised.
# Without restarts bfloat16 diverges in 10 steps. Products in TF32 keep the plain form: it holds X in float32 and errs
# by 8e-4, the Gram form by 0.03 however often it restarts.
_TOLERATED = {torch.float64: 1e-12, torch.float32: 2e-3, torch.float16: 0.03, torch.bfloat16: 0.05}
_GRAM_SIZE = 32  # smaller products cost what their calls cost, of which the Gram form has more


def _restarts(dtype: torch.dtype, triples: Triples) -> list[int]:
    """The numbers of steps after which the Gram form restarts in `dtype`."""
    rounding = torch.finfo(dtype).eps / 2
    restarts, error = [], rounding
    for done, factor in enumerate(_amplifications(tuple(triples))[:-1], 1):
        error *= factor
        if error > _TOLERATED[dtype]:
            restarts.append(done)
            error = rounding
    return restarts


@lru_cache(maxsize=64)
def _amplifications(triples: tuple[tuple[float, float, float], ...]) -> list[float]:
    """What each step multiplies the errors of R by: a², and more where it makes large eigenvalues small.

    Eigenvalues are taken from all that the steps before can give, at first up to 1; large ones are above a tenth of the
    largest. What becomes less than a tenth of the new largest still stands for a large part of X, with its errors.
    """
    factors, top = [], 1.0
    for a, b, c in triples:
        eigenvalues = [top * i / 256 for i in range(257)]
        mapped = [r * (a + b * r + c * r * r) ** 2 for r in eigenvalues]
        top = max(mapped)
        lowest = min(mapped[26:]) / max(top, 1e-30)
        factors.append(a * a * max(1.0, 0.1 / max(lowest, 1e-30)))
    return factors


def _pieces(shape: Sequence[int], dtype: torch.dtype, device: torch.device, triples: Triples) -> list[Triples]:
    """The triples cut where the Gram form restarts; a piece of one step is a step of the plain form.

    A step in a piece after its first, quintic or cubic, saves two products with the long side l and costs three with
    the short side k, so that the Gram form pays from l = 1.5 k on. A linear step has no products that could be saved.
    """
    inexact = dtype == torch.float32 and not _multiplies_float32_exactly(device)
    short, long = sorted(shape[-2:])
    linear = any(b == c == 0 for _, b, c in triples)
    if dtype not in _TOLERATED or inexact or linear or short < _GRAM_SIZE or long <= 1.5 * short:
        return [[triple] for triple in triples]
    ends = [*_restarts(dtype, triples), len(triples)]
    return [triples[i:j] for i, j in zip([0, *ends], ends, strict=False)]


def explain_orthogonalize(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    steps: float = 5,
    method: str = "newton_schulz",
    coefficients: Triples | None = None,
) -> str:
    """How `orthogonalize` treats a tensor of this shape (..., rows, cols), dtype and device, in one line.

    Says what holds here and now: on this machine, whose dtype need not be that of another (see `iterate_in`), under
    `iterate_in`, torch's precision of float32 products, and what was measured.
    TypeError and ValueError as `orthogonalize`.
    """
    what = "explain_orthogonalize"
    sizes = shape if isinstance(shape, (tuple, list)) else ()
    if len(sizes) < 2 or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise TypeError(f"{what} takes the shape of matrices, two or more sizes, not {shape!r}")
    _require_floating(what, dtype)
    device = _device_named(what, device)
    size = f"{'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    if method == "svd" and coefficients is None:
        return f"{size}: singular value decomposition"
    inside = _dtype_of_iteration(dtype, device, shape)
    pieces = _pieces(shape, inside, device, _triples(method, steps, coefficients))
    counts = [len(piece) for piece in pieces]
    form = "plain form" if max(counts, default=0) <= 1 else "Gram form"
    restarts = [str(sum(counts[: i + 1])) for i in range(len(counts) - 1)] if form == "Gram form" else []
    again = f", restarted after step {', '.join(restarts)}" if restarts else ""
    batch = torch.Size(shape[:-2]).numel()
    products = _explain_products(device, inside, batch, min(shape[-2:]))
    name = str(inside).removeprefix("torch.")
    return f"{size} on {device}: {sum(counts)} steps in {name}, {form}{again}; symmetric products {products}"


# -- the function ------------------------------------------------------------------------------------------------------


def orthogonalize(
    x: Tensor,
    steps: float = 5,
    method: str = "newton_schulz",
    coefficients: Triples | None = None,
    eps: float = 0,
    scale: str = "frobenius",
) -> Tensor:
    """The nearest orthogonal matrix to each matrix of x (..., rows, cols), exactly ("svd") or by odd polynomials.

    `coefficients` are explicit triples, one per step, instead of those of `method` and `steps`. The matrix is first
    divided by its Frobenius norm, or by its Schatten 4-norm (of its singular values, which is smaller, so that fewer
    steps are needed), plus `eps`; "svd" divides by nothing. Iterates in float64 for float64, in bfloat16 where the
    device multiplies it fast, else in float32 (`iterate_in` says where, and overrides). Zero stays zero, and so do rows
    and columns of zeros; NaN and infinity give NaN. Result in the dtype of x, contiguous. ValueError for an unknown
    method or scale, a number of steps that is none, an eps below 0, or coefficients that are no triples; TypeError
    where x holds no matrices of real numbers.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        given = f"one of {x.dtype} and shape {tuple(x.shape)}" if isinstance(x, Tensor) else _kind_of(x)
        raise TypeError(f"orthogonalize takes a real tensor (..., rows, cols), not {given}")
    divisor = _divisor(method, coefficients, eps, scale)
    if method == "svd" and coefficients is None:
        wide = _at_least_float32(x)
        found, kept = _call_shielded(_polar_factor, wide), wide != 0
        kept = kept.any(-1, keepdim=True) & kept.any(-2, keepdim=True)
        return torch.where(kept | found.isnan(), found, 0.0).to(x.dtype)
    triples = _triples(method, steps, coefficients)
    if x.requires_grad and torch.is_grad_enabled():
        start, plain = _divide_by_norms(x, divisor), [[triple] for triple in triples]
        return _iterate_pieces(start, plain).reshape(x.shape).to(x.dtype)
    if _is_traced(x):
        return cast(Tensor, _operator(x, [float(number) for triple in triples for number in triple], *divisor))
    return _orthogonalize(x, triples, divisor)


def _is_traced(x: Tensor) -> bool:
    """Whether torch records what is done with x, or x has no values."""
    return torch.compiler.is_compiling() or isinstance(x, FakeTensor) or get_proxy_mode() is not None


def _orthogonalize(x: Tensor, triples: Triples, divisor: _Divisor) -> Tensor:
    """x after the steps, on real memory and without a derivative; as if there were no autocast."""
    kind = x.device.type
    cast_here = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if cast_here else nullcontext():
        return _iterate_in_form(_divide_by_norms(x, divisor), triples).reshape(x.shape).to(x.dtype)


def _iterate_in_form(x: Tensor, triples: Triples) -> Tensor:
    """What has been divided by its norms (batch, rows, cols) after the steps, in the form that is best for it."""
    return _iterate_pieces(x, _pieces(x.shape, x.dtype, x.device, triples))


def _divide_by_norms(x: Tensor, divisor: _Divisor) -> Tensor:
    """x by its norms, as (batch, rows, cols) in the dtype of the iteration; products of one layout give equal bits."""
    wide = _at_least_float32(x).contiguous()
    inside = _dtype_of_iteration(x.dtype, x.device, x.shape)
    shape = (torch.Size(x.shape[:-2]).numel(), *x.shape[-2:])
    norm = _frobenius_norm(wide, wide.dtype)
    if (
        divisor.schatten4
    ):  # that of the Gram matrix is its square; of unit matrices, which are in the range of any dtype
        unit = (wide / norm.clamp_min(1e-30)).to(inside).reshape(shape)
        norm = norm * _frobenius_norm(_gram(unit), wide.dtype).clamp_min(1e-30).sqrt().reshape(norm.shape)
    return _divide_by(wide, norm, divisor, inside).reshape(shape)


def _divide_by(wide: Tensor, norm: Tensor, divisor: _Divisor, dtype: torch.dtype) -> Tensor:
    norm = norm * divisor.margin + divisor.eps if divisor.eps else norm * divisor.margin
    return (wide / norm.clamp_min(1e-30)).to(dtype)


def _frobenius_norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 1, 1) in this dtype; summed in float64, since squares of small float32 numbers vanish."""
    sums = dtype if x.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=sums)
    return norm.to(dtype)


def _gram(x: Tensor) -> Tensor:
    """X Xᵀ, or Xᵀ X, whichever is smaller."""
    return _symmetric_product(x.mT, x) if x.shape[-2] > x.shape[-1] else _symmetric_product(x, x.mT)


def _iterate_pieces(x: Tensor, pieces: Sequence[Triples]) -> Tensor:
    for piece in pieces:
        x = _iterate_gram(x, piece) if len(piece) > 1 else _iterate(x, piece)
    return x


def _iterate(x: Tensor, triples: Triples) -> Tensor:
    """x (batch, rows, cols) after the steps X <- a X + (b A + c A²) X with A = X Xᵀ, or its mirror image if tall."""
    for a, b, c in triples:
        if b == c == 0:
            x = x * a
            continue
        factor, polynomial = _polynomial(_gram(x), b, c)
        factors = (x, polynomial) if x.shape[-2] > x.shape[-1] else (polynomial, x)
        x = _plain_product(*factors, factor, a, x)
    return x


def _polynomial(gram: Tensor, b: float, c: float) -> tuple[float, Tensor]:
    """b A + c A² as a number and the matrix it multiplies; without c, a cubic step, that is A itself."""
    if c == 0:
        return b, gram
    if b == 0:
        return c, _symmetric_product(gram, gram)
    return 1, _symmetric_product(gram, gram, c, b, gram)


def _iterate_gram(x: Tensor, triples: Triples) -> Tensor:
    """As `_iterate`, but on the small Gram matrix r: x is multiplied once, by the product q of all polynomials.

    No step is linear.
    """
    r = _gram(x)
    q: Tensor | None = None
    for i, (a, b, c) in enumerate(triples, 1):
        factor, z = _polynomial(r, b, c)
        if i < len(triples):
            rz = _symmetric_product(r, z, factor, a, r)
            r = _symmetric_product(z, rz, factor, a, rz)
        if q is None:
            q = z if factor == 1 else z * factor
            q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            q = _symmetric_product(q, z, factor, a, q)
    if q is None:
        return x
    return torch.bmm(x, q) if x.shape[-2] > x.shape[-1] else torch.bmm(q, x)


# -- the operator ------------------------------------------------------------------------------------------------------


def _run_operator(x: Tensor, numbers: Sequence[float], margin: float, eps: float, schatten4: bool) -> Tensor:
    """The operator's own form of `_orthogonalize`: the triples follow one another in `numbers`."""
    return _orthogonalize(x, _by_three(numbers), _Divisor(margin, eps, schatten4))


def _by_three(numbers: Sequence[float]) -> Triples:
    return [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)]


def _call_traced(x: Tensor, numbers: Sequence[float], margin: float, eps: float, schatten4: bool) -> Tensor:
    """The form of the result, for tracing."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library, _operator = _define_operator(
    __name__,
    "orthogonalize",
    "(Tensor x, float[] numbers, float margin, float eps, bool schatten4) -> Tensor",
    _run_operator,
    _call_traced,
)
