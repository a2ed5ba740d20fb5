"""Products of matrices that are known to be symmetric: half of the work where that pays, a plain product elsewhere.

Takes batches (batch, rows, cols) of any strides and gives alpha a b + beta c, where alpha is not 0 and c is not read if
beta is 0: some libraries compute something else for a coefficient of 0. On the CPU large products compute the blocks on
and below the diagonal only. On CUDA a Triton kernel computes tiles on and below the diagonal and writes each twice, and
so does QuACK (github.com/Dao-AILab/quack) for 16-bit dtypes where that package is installed; they are used where they
were measured faster, and imported only then. Whether a product is symmetric is for the caller to know: it is not
checked.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, NamedTuple, no_type_check

import torch
from torch import Tensor

from ..contract.hypers import _suggest

SYMMETRIC_BLOCK = 384  # smaller products gain nothing from being cut
_TRITON_SIZE = 512  # with tiles of 128, a smaller product saves less than a third of its tiles
_TRITON_BATCH = 65535  # the second dimension of a CUDA grid

_WAYS = ("measured", "plain", "triton", "quack")
_way: ContextVar[str | None] = ContextVar("way of symmetric products", default=None)


@contextmanager
def symmetric_products(way: str) -> Iterator[None]:
    """Within this context, of this thread, large symmetric products on CUDA are computed in this way.

    "measured", the default, times the plain product, Triton's and QuACK's at the first product of each shape and keeps
    the fastest for the process: results may differ in rounding from run to run. It means "plain" in a distributed
    run, whose processes must agree, and under `torch.use_deterministic_algorithms`. "plain" is the product of the
    vendor's library. "triton" is Triton's with fixed tiles, the same bits in every run; it raises what Triton raises.
    "quack" is QuACK's, plain for float32; it raises what QuACK raises. The environment variable
    OPTFORGE_SYMMETRIC_PRODUCTS sets the default. ValueError for another word.
    """
    token = _way.set(_check_way(way))
    try:
        yield
    finally:
        _way.reset(token)


def _check_way(way: str) -> str:
    if way not in _WAYS:
        raise ValueError(f"unknown way {way!r} of symmetric products{_suggest(way, _WAYS)}")
    return way


def _choose_way() -> str:
    """The way in force: "measured" only where nothing asks for the same bits in other processes."""
    way = _way.get() or _check_way(os.environ.get("OPTFORGE_SYMMETRIC_PRODUCTS", "measured"))
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if way == "measured" and (shared or torch.are_deterministic_algorithms_enabled()):
        return "plain"
    return way


def _multiplies_float32_exactly(device: torch.device) -> bool:
    """Whether products of float32 matrices keep float32's precision there, rather than TF32's or bfloat16's."""
    backend = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    own = backend.fp32_precision
    return (torch.backends.fp32_precision if own == "none" else own) in ("ieee", "none")  # type: ignore[attr-defined]


def _symmetric_product(a: Tensor, b: Tensor, alpha: float = 1, beta: float = 0, c: Tensor | None = None) -> Tensor:
    """alpha a b + beta c, of which c (batch, k, k) and the product are symmetric; differentiable."""
    c = None if beta == 0 else c
    if a.requires_grad or b.requires_grad:
        return _plain_product(a, b, alpha, beta, c)
    if a.device.type == "cpu" and a.shape[-2] > SYMMETRIC_BLOCK:
        out = a.new_empty(a.shape[0], a.shape[1], a.shape[1])
        _fill_symmetric(out, a, b, alpha, beta, c)
        return out
    if _suits_triton(a):
        return _product_on_cuda(a, b, alpha, beta, c)
    return _plain_product(a, b, alpha, beta, c)


def _plain_product(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> Tensor:
    """alpha a b + beta c, of any matrices."""
    if c is None or beta == 0:
        product = torch.bmm(a, b)
        return product if alpha == 1 else product * alpha
    return torch.baddbmm(c, a, b, beta=beta, alpha=alpha)


def _fill_symmetric(out: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> None:
    """Writes alpha a b + beta c to out (batch, k, k): halves on the diagonal, the one below it, and its transpose."""
    if out.shape[-1] <= SYMMETRIC_BLOCK:
        _fill(out, a, b, alpha, beta, c)
        return
    h = out.shape[-1] // 2
    parts = (None, None, None) if c is None else (c[:, :h, :h], c[:, h:, h:], c[:, h:, :h])
    _fill_symmetric(out[:, :h, :h], a[:, :h], b[..., :h], alpha, beta, parts[0])
    _fill_symmetric(out[:, h:, h:], a[:, h:], b[..., h:], alpha, beta, parts[1])
    _fill(out[:, h:, :h], a[:, h:], b[..., :h], alpha, beta, parts[2])
    out[:, :h, h:] = out[:, h:, :h].mT


def _fill(out: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> None:
    """Writes alpha a b + beta c to out; without c it does not read what out holds."""
    if c is not None:
        torch.baddbmm(c, a, b, beta=beta, alpha=alpha, out=out)
        return
    torch.bmm(a, b, out=out)
    if alpha != 1:
        out.mul_(alpha)


# -- CUDA --------------------------------------------------------------------------------------------------------------


class _Tiles(NamedTuple):
    """How the kernel cuts a product: tiles of side x side, summed over `depth` columns at a time."""

    side: int
    depth: int
    warps: int
    stages: int


# The first of each dtype is the fixed one. float32 takes twice the shared memory, and more registers.
_TILES = {
    torch.float32: (_Tiles(64, 32, 4, 3), _Tiles(128, 32, 8, 3), _Tiles(128, 16, 8, 4)),
    torch.bfloat16: (_Tiles(128, 64, 8, 3), _Tiles(128, 64, 4, 4), _Tiles(128, 32, 4, 4), _Tiles(64, 64, 4, 4)),
}
_TILES[torch.float16] = _TILES[torch.bfloat16]


class _Choice(NamedTuple):
    """What was measured for products of one form, in milliseconds; `by` is None where the plain product won."""

    by: _Tiles | str | None
    plain: float
    best: float


_choices: dict[tuple[Any, ...], _Choice] = {}
_choosing = threading.Lock()


def _suits_triton(a: Tensor) -> bool:
    fits = a.shape[-2] >= _TRITON_SIZE and 0 < a.shape[0] <= _TRITON_BATCH and a.shape[-1] > 0
    return a.device.type == "cuda" and fits and a.dtype in _TILES


def _product_on_cuda(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> Tensor:
    way = _choose_way()
    by = _find_fastest(a, b, alpha, beta, c) if way == "measured" else _look_up_way(way, a.dtype)
    return _multiply_by(by, a, b, alpha, beta, c)


def _look_up_way(way: str, dtype: torch.dtype) -> _Tiles | str | None:
    """What computes products where a way is fixed."""
    if way == "triton":
        return _TILES[dtype][0]
    return _QUACK if way == "quack" and dtype != torch.float32 else None


def _multiply_by(by: _Tiles | str | None, a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> Tensor:
    if by is None:
        return _plain_product(a, b, alpha, beta, c)
    if isinstance(by, _Tiles):
        return _tiled_product(a, b, alpha, beta, c, by)
    return _quack_product(a, b, alpha, beta, c)


def _find_fastest(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> _Tiles | str | None:
    """What was fastest for products of this form, measured now if this is the first; None for the plain product."""
    key = (_form(a), a.stride(), b.stride(), c is not None, _precision(a))
    choice = _choices.get(key)
    if choice is None:
        candidates = _list_candidates(a.dtype)
        if not candidates or torch.cuda.is_current_stream_capturing():
            return None  # a capture cannot wait for a clock
        with _choosing:
            choice = _choices.get(key) or _measure(candidates, a, b, alpha, beta, c)
            _choices[key] = choice
    return choice.by


def _list_candidates(dtype: torch.dtype) -> list[_Tiles | str]:
    """What is installed that may be faster than the plain product."""
    candidates: list[_Tiles | str] = [] if _kernel() is None else [*_TILES[dtype]]
    return candidates if dtype == torch.float32 or _quack() is None else [*candidates, _QUACK]


def _form(x: Tensor) -> tuple[Any, ...]:
    return (x.device, x.dtype, *x.shape)


def _measure(
    candidates: list[_Tiles | str], a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None
) -> _Choice:
    """Times the plain product and all candidates; where every one of them fails it is the plain one, with a warning."""
    plain = _time(partial(_plain_product, a, b, alpha, beta, c))
    times: dict[_Tiles | str, float] = {}
    for candidate in candidates:
        try:
            if candidate == _QUACK:
                _require_agreement(a, b, alpha, beta, c)
            times[candidate] = _time(partial(_multiply_by, candidate, a, b, alpha, beta, c))
        except Exception as error:  # a compiler that is missing or fails, tiles that this device has no room for
            problem = f"{type(error).__name__}: {error}"
    if not times:
        warnings.warn(f"no kernel multiplies {_name_form(a)} here, plain products are used ({problem})", stacklevel=2)
        return _Choice(None, plain, float("inf"))
    best = min(times, key=lambda candidate: times[candidate])
    return _Choice(best if times[best] < plain else None, plain, times[best])


def _time(run: Callable[[], Tensor]) -> float:
    """The time of one call on the current CUDA stream: the least of three means, after one call that compiles."""
    stream = torch.cuda.current_stream(run().device)
    times: list[float] = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(stream)
        for _ in range(5):
            run()
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end) / 5)
    return min(times)


def _name_form(x: Tensor) -> str:
    return f"{'×'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}"


def _explain_products(device: torch.device, dtype: torch.dtype, batch: int, size: int) -> str:
    """How symmetric products (batch, size, size) are computed there, in words."""
    if device.type == "cpu":
        return f"by blocks of at most {SYMMETRIC_BLOCK}" if size > SYMMETRIC_BLOCK else "plain"
    if device.type != "cuda" or dtype not in _TILES or not (size >= _TRITON_SIZE and 0 < batch <= _TRITON_BATCH):
        return "plain"
    way = _choose_way()
    if way != "measured":
        return _describe_way(_look_up_way(way, dtype))
    known = [choice for (form, *_), choice in _choices.items() if form[1:4] == (dtype, batch, size)]
    if not known:
        return "plain or by a kernel, as measured at the first"
    words = {f"{_describe_way(choice.by)} ({choice.best:.3f} ms, plain {choice.plain:.3f} ms)" for choice in known}
    return "; ".join(sorted(words))


def _describe_way(by: _Tiles | str | None) -> str:
    return "plain" if by is None else "by Triton" if isinstance(by, _Tiles) else "by QuACK"


# -- QuACK -------------------------------------------------------------------------------------------------------------

_QUACK = "quack"
_AGREEMENT = 0.02  # of the largest element: a few roundings of bfloat16


@lru_cache(maxsize=1)
def _quack() -> Callable[..., Tensor] | None:
    """The package's symmetric product, or None without it or on a device that it does not know."""
    try:
        product: Callable[..., Tensor] = importlib.import_module("quack.gemm_interface").gemm_symmetric
        return product
    except (ImportError, AttributeError, RuntimeError):
        return None


def _quack_product(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> Tensor:
    """alpha a b + beta c by QuACK; ImportError without it."""
    product = _quack()
    if product is None:
        raise ImportError("symmetric products by QuACK need the package quack-kernels")
    added = {} if c is None else {"C": c, "beta": float(beta)}
    return product(a, b, alpha=float(alpha), **added)


def _require_agreement(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None) -> None:
    """ArithmeticError where the package computes something else: another release may mean other arguments."""
    wanted, found = (_multiply_by(by, a, b, alpha, beta, c).float() for by in (None, _QUACK))
    if found.shape != wanted.shape or not (found - wanted).abs().max() <= _AGREEMENT * wanted.abs().max():
        raise ArithmeticError("QuACK's product is not the plain one")


# -- Triton ------------------------------------------------------------------------------------------------------------

tl: Any = None  # Triton's language: the kernel below finds it by this name once `_kernel` has imported it


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The compiled kernel, or None without Triton or without the source that it compiles."""
    global tl
    try:
        triton = importlib.import_module("triton")
        tl = importlib.import_module("triton.language")
        return triton.jit(_lower_tiles)
    except (ImportError, OSError):
        return None


def _precision(a: Tensor) -> str:
    return "tf32" if a.dtype == torch.float32 and not _multiplies_float32_exactly(a.device) else "ieee"


def _tiled_product(a: Tensor, b: Tensor, alpha: float, beta: float, c: Tensor | None, tiles: _Tiles) -> Tensor:
    """alpha a b + beta c by the kernel; ImportError without Triton."""
    kernel = _kernel()
    if kernel is None:
        raise ImportError("symmetric products by Triton need the package triton, and source files that it can read")
    batch, size, inner = a.shape
    out = a.new_empty(batch, size, size)
    addend = out if c is None else c
    count = -(-size // tiles.side)
    strides = (*a.stride(), *b.stride(), *addend.stride(), *out.stride())
    launch = kernel[(count * (count + 1) // 2, batch)]
    with torch.cuda.device(a.device) if a.device.type == "cuda" else nullcontext():
        launch(
            *(a, b, addend, out, size, inner, *strides, float(alpha), float(beta)),
            HAS_ADDEND=c is not None,
            PRECISION=_precision(a),
            SIDE=tiles.side,
            DEPTH=tiles.depth,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return out


@no_type_check
def _lower_tiles(
    a, b, c, out, size, inner,
    a_batch, a_row, a_col, b_batch, b_row, b_col, c_batch, c_row, c_col, out_batch, out_row, out_col,
    alpha, beta,
    HAS_ADDEND: tl.constexpr, PRECISION: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile on or below the diagonal of alpha a b + beta c, and its transpose; sums are float32."""
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    # Tile number t lies in row i where i (i + 1) / 2 <= t; the root of a float32 may be one off.
    i = ((tl.sqrt(8.0 * tile + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    j = tile - i * (i + 1) // 2
    rows = (i * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    cols = (j * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    depth = tl.arange(0, DEPTH)
    a += batch * a_batch + rows[:, None] * a_row + depth[None, :] * a_col
    b += batch * b_batch + depth[:, None] * b_row + cols[None, :] * b_col
    total = tl.zeros((SIDE, SIDE), dtype=tl.float32)
    for start in range(0, inner, DEPTH):
        x = tl.load(a, mask=(rows[:, None] < size) & (depth[None, :] < inner - start), other=0.0)
        y = tl.load(b, mask=(depth[:, None] < inner - start) & (cols[None, :] < size), other=0.0)
        total = tl.dot(x, y, total, input_precision=PRECISION)
        a += DEPTH * a_col
        b += DEPTH * b_row
    total = alpha * total
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    if HAS_ADDEND:
        c += batch * c_batch + rows[:, None] * c_row + cols[None, :] * c_col
        total += beta * tl.load(c, mask=inside, other=0.0).to(tl.float32)
    out += batch * out_batch
    values = total.to(out.dtype.element_ty)
    tl.store(out + rows[:, None] * out_row + cols[None, :] * out_col, values, mask=inside)
    if i != j:
        mirrored = out + cols[:, None] * out_row + rows[None, :] * out_col
        tl.store(mirrored, tl.trans(values), mask=(cols[:, None] < size) & (rows[None, :] < size))
