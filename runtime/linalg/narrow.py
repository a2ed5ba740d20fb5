"""`orthogonalize` on shards, where it iterates in fewer bits than its matrices have: they travel in its dtype.

The norms that the matrices are divided by are added up over ranks, and each divides and rounds what it has. So the
iteration begins with the bits that it has of whole matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .matrices import _at_least_float32
from .opaque import _define_operator
from .orthogonal import _by_three, _divide_by, _dtype_of_iteration, _is_traced, _iterate_in_form
from .polynomials import Triples, _Divisor, _divisor, _triples


@dataclass(frozen=True)
class Narrow:
    """An iteration in fewer bits than its matrices have: divided where their shards are, they are sent in its dtype."""

    dtype: torch.dtype
    triples: tuple[tuple[float, float, float], ...]
    divisor: _Divisor

    def squares(self, x: Tensor) -> Tensor:
        """What shards (batch, rows, cols) have of the squared norms, in float64."""
        wide = _at_least_float32(x)
        norms: Tensor = torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True, dtype=torch.float64)
        return norms.square()

    def divided(self, x: Tensor, squares: Tensor) -> Tensor:
        """Shards by the norms of their matrices, as whole matrices would be."""
        wide = _at_least_float32(x).contiguous()
        return _divide_by(wide, squares.sqrt().to(wide.dtype), self.divisor, self.dtype)

    def iterated(self, x: Tensor) -> Tensor:
        """Whole matrices that have been divided, after all steps."""
        if _is_traced(x):
            return cast(Tensor, _iteration(x, [float(number) for triple in self.triples for number in triple]))
        return _iterate_in_form(x.contiguous(), self.triples)


def _narrow(
    x: Tensor,
    shape: Sequence[int],
    steps: float = 5,
    method: str = "newton_schulz",
    coefficients: Triples | None = None,
    eps: float = 0,
    scale: str = "frobenius",
) -> Narrow | None:
    """How shards of matrices of this shape are orthogonalized in fewer bits.

    None where the iteration keeps all bits, and where what divides the matrices is no sum over shards.
    """
    dtype, divisor = _dtype_of_iteration(x.dtype, x.device, shape), _divisor(method, coefficients, eps, scale)
    if (method == "svd" and coefficients is None) or divisor.schatten4 or dtype.itemsize >= x.dtype.itemsize:
        return None
    triples = tuple((a, b, c) for a, b, c in _triples(method, steps, coefficients))
    return Narrow(dtype, triples, divisor)


def _run_iteration(x: Tensor, numbers: Sequence[float]) -> Tensor:
    """The operator's own form of `_iterate_in_form`: the triples follow one another in `numbers`."""
    return _iterate_in_form(x.contiguous(), _by_three(numbers))


def _form_iteration(x: Tensor, numbers: Sequence[float]) -> Tensor:
    """The form of the result, for tracing."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_iteration_library, _iteration = _define_operator(
    __name__, "iterate", "(Tensor x, float[] numbers) -> Tensor", _run_iteration, _form_iteration
)
