"""Torch's fused kernels for lists of tensors."""

from __future__ import annotations

from torch import Tensor


def _fused_fits(*lists: list[Tensor]) -> bool:
    return False
