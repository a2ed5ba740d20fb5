"""Products of matrices as different processors sum them, emulated: in which dtype, in which order, how rounded.

Tensor cores and AMX sum products of 16-bit numbers in float32, some libraries in 16 bits; they take the terms in blocks
of different sizes and orders; and alpha a b + beta c is rounded once at the end, or each of its terms is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SUMS = {"addmm": 3, "baddbmm": 3, "mm": 2, "bmm": 2}  # and how many tensors they take


@dataclass(frozen=True)
class Accumulator:
    """How a product is summed: `terms` at a time, in `dtype`, which is the operands' own where it is None."""

    name: str
    dtype: torch.dtype | None = torch.float64
    terms: int = 1 << 30
    backwards: bool = False
    rounds_each: bool = False  # alpha a b and beta c, before they are added

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        dtype = self.dtype or a.dtype
        starts = range(0, a.shape[-1], self.terms)
        total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=dtype)
        for i in reversed(starts) if self.backwards else starts:
            block = a[..., i : i + self.terms].double() @ b[..., i : i + self.terms, :].double()
            total = total + block.to(dtype)
        return total

    def combined(self, alpha: float, product: Tensor, beta: float, c: Tensor) -> Tensor:
        terms = [alpha * product.double(), beta * c.double()]
        return sum((x.to(c.dtype).double() if self.rounds_each else x for x in terms), torch.zeros(()))


ONE_ROUNDING = Accumulator("rounded once")
ACCUMULATORS = (
    ONE_ROUNDING,
    Accumulator("every term rounded", rounds_each=True),
    Accumulator("float32, 16 at a time", torch.float32, 16),
    Accumulator("float32, 2 at a time from the end, every term rounded", torch.float32, 2, True, True),
    Accumulator("own dtype, 32 at a time", None, 32),
    Accumulator("own dtype, 16 at a time from the end, every term rounded", None, 16, True, True),
)


class Summing(TorchDispatchMode):
    """Within this context matrices of less than 64 bits are multiplied as the accumulator says."""

    def __init__(self, accumulator: Accumulator) -> None:
        super().__init__()
        self.accumulator, self.products = accumulator, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = SUMS.get(function.overloadpacket.__name__)
        if count is None or args[0].dtype == torch.float64:
            return function(*args, **kwargs)
        self.products += 1
        *added, a, b = args[:count]
        found = self.accumulator.product(a, b)
        if added:
            alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
            found = self.accumulator.combined(alpha, found, beta, added[0])
        found = found.to(a.dtype)
        return kwargs["out"].copy_(found) if "out" in kwargs else found
