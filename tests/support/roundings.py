"""Torch's CPU kernels, rounding as those of another processor might.

The last place of a result differs where sums are taken in another order, where a product and a sum are rounded once
instead of twice, and in functions like exp. Here it is moved, by a rule that looks at the result's own bits, so that
the same call gives the same bits, as on every processor. For sums of more than one term it looks at the shapes, strides
and alignments of the operands as well: another matrix in the batch, or another place in memory, may mean another order.
Elementwise kernels give an element the same bits wherever it stands, which generated classes rely on. What looks exact,
as sums of small whole numbers are, stays.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmv", "dot")
SUMS = (*PRODUCTS, "sum.dim_IntList", "mean.dim", "linalg_vector_norm", "var.correction", "prod.dim_int")
SUMS += ("_softmax", "_log_softmax", "native_layer_norm")
ELEMENTWISE = ("add.Tensor", "sub.Tensor", "addcmul", "addcdiv", "lerp.Scalar", "lerp.Tensor")
ELEMENTWISE += ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan", "sigmoid", "rsqrt", "erf")
ELEMENTWISE += ("atan2", "pow.Tensor_Scalar", "pow.Tensor_Tensor")
INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}
INTEGERS |= {torch.bfloat16: torch.int16}
EXACT_BITS = {torch.float64: 16, torch.float32: 8, torch.float16: 3, torch.bfloat16: 2}  # trailing zeros that say so


@contextmanager
def otherwise() -> Iterator[None]:
    """Within this context, in all threads, torch's kernels on the CPU round otherwise."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*operators may also be overridden.*")
        for operator in (*SUMS, *ELEMENTWISE):
            for form in forms(operator):
                replaced = rounding_otherwise(operator, form)
                library.impl(form, replaced, "CPU", with_keyset=True, allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def forms(operator: str) -> list[str]:
    """The overloads of an operator that share its kernel: with a result of its own, in place, and into another."""
    name, _, overload = operator.partition(".")
    outs = {"out", "dim_out", "correction_out", "IntList_out", f"{overload}_out"}
    found = [f"aten::{each}" for each in (operator, f"{name}_.{overload}".removesuffix("."))]
    found += [f"aten::{name}.{out}" for out in sorted(outs)]
    known = set(torch._C._dispatch_get_all_op_names())
    on_cpu = torch._C._dispatch_has_kernel_for_dispatch_key
    return [each.removeprefix("aten::") for each in found if each in known and on_cpu(each, "CPU")]


def rounding_otherwise(operator: str, form: str) -> Callable[..., Any]:
    """The kernel of one overload, and what moves the last places of its result."""
    kernel = torch.library.get_kernel(f"aten::{form}", "CPU")
    name, _, overload = form.partition(".")
    takes_tensor = [
        str(argument.type) == "Tensor" for argument in torch._C._get_schema("aten::" + name, overload).arguments
    ]

    def call(keys: Any, *args: Any, **kwargs: Any) -> Any:
        operands = [x for x in args if isinstance(x, Tensor)]
        given = [tensor_of(x, operands) if wanted else x for x, wanted in zip(args, takes_tensor, strict=False)]
        seen = (operator, [form_of(x) for x in operands] if operator in SUMS else kwargs.get("alpha"))
        first = operands[0].clone() if operator in ELEMENTWISE and operands else None
        out = kernel.call_boxed(keys, *given, **kwargs)
        results = out if isinstance(out, tuple | list) else (out,)
        if is_rounded(operator, operands, results[0], kwargs):
            for result in results:
                move_last_places(result, zlib.crc32(repr(seen).encode()), first)
        return out

    return call


def is_rounded(operator: str, operands: Sequence[Tensor], out: Tensor, settings: dict[str, Any]) -> bool:
    """Whether processors may differ at all: not where one operation is rounded once."""
    if operator in ("add.Tensor", "sub.Tensor"):
        return settings.get("alpha", 1) not in (1, -1)
    if operator in ("mm", "bmm", "dot"):
        return operands[0].shape[-1] > 1
    return operator not in SUMS or operator in PRODUCTS or operands[0].numel() != out.numel()


def tensor_of(x: Any, operands: Sequence[Tensor]) -> Any:
    """The tensor that a number stands for: wide, since only operands with dimensions decide the result's dtype."""
    if not isinstance(x, int | float):
        return x
    if all(each.ndim == 0 for each in operands):
        return torch.tensor(x, dtype=torch.result_type(operands[0], x))
    return torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else torch.int64)


def form_of(x: Tensor) -> tuple[Any, ...]:
    return x.dtype, tuple(x.shape), x.stride(), x.data_ptr() % 64


def move_last_places(x: Tensor, seed: int, unchanged: Tensor | None = None) -> None:
    """Moves about two thirds of the elements of x to a neighbour, up or down as their bits and the seed say.

    Not where they are those of `unchanged`, to which nothing was added.
    """
    if x.dtype not in INTEGERS or x.numel() == 0:
        return
    bits = np.atleast_1d(x.detach().view(INTEGERS[x.dtype]).numpy())
    inexact = (bits & (1 << EXACT_BITS[x.dtype]) - 1 != 0) & np.atleast_1d(x.detach().isfinite().numpy())
    if unchanged is not None and unchanged.shape == x.shape:
        inexact &= np.atleast_1d((unchanged.detach() != x.detach()).numpy())
    # Multiplied by an odd number, low bits reach the high ones.
    mixed = (bits.astype(np.uint64) ^ np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    bits += np.where(inexact, (mixed % 3).astype(bits.dtype) - 1, 0).astype(bits.dtype)
